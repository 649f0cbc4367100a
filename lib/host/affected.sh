# shellcheck shell=bash
# What works on a machine, and stops when a page changes who may pass, listen and log in: each function prints a line for each
# such thing, a word for it and a sentence. A person confirms what is not accepted yet.

# affected ACCEPTED… -- FUNCTION WORD… [-- FUNCTION WORD…]: holds where nothing is affected but what is among ACCEPTED.
affected() {
  local accepted=$'\n' line found='' call=() more=''
  while [ "$1" != -- ]; do
    accepted+=$1$'\n'
    shift
  done
  while [ $# -gt 0 ]; do
    shift
    call=()
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
      call+=("$1")
      shift
    done
    line=$("${call[@]}") || { printf 'could not ask: %s: %s\n' "${call[0]}" "$line"; return 102; }
    found+=$line$'\n'
  done
  while IFS= read -r line; do
    [ -n "$line" ] || continue
    case $accepted in *$'\n'"${line%% *}"$'\n'*) continue ;; esac
    printf '%s\n' "$line"
    more=yes
  done < <(LC_ALL=C sort --unique <<< "$found")
  [ -z "$more" ]
}

# affected_links OWN…: bridges, tunnels and VPNs, but those whose names are OWN and the one that leads out.
affected_links() {
  local out
  out=$({
    ip -6 route show default 2> /dev/null || true # there may be no IPv6
    ip route show default
  } | sed --quiet 's/.* dev \([^ ]*\).*/\1/p')
  ip -details -oneline link show |
    awk -v own=" $* $out " '
      {
        name = $2
        sub(/[:@].*/, "", name)
        if (index(own, " " name " ")) next
        what = ""
        if (/ bridge forward_delay/) what = "the bridge"
        else if (/ wireguard( |\\)/) what = "the WireGuard interface"
        else if (/ (tun type|xfrm|vti|gre|ipip|sit|ppp|l2tp|vxlan)( |\\)/) what = "the tunnel"
        else if (/ (macvlan|ipvlan) /) what = "the virtual network card"
        if (what != "") print name " " what " " name
      }'
  [ -z "$(ip xfrm policy 2> /dev/null)" ] || echo 'ipsec policies of IPsec'
}

# affected_engines OWN…: programs that run containers or virtual machines, or are a VPN.
affected_engines() {
  systemctl list-units --plain --no-legend --no-pager --state=active 'docker.service' 'podman*.service' 'containerd.service' \
    'crio.service' 'lxd.service' 'snap.lxd.daemon.service' 'incus.service' 'libvirtd.service' 'virtnetworkd.service' \
    'k3s*.service' 'openvpn*.service' 'tailscaled.service' 'zerotier-one.service' 'nebula.service' \
    'strongswan*.service' 'ipsec.service' 'systemd-nspawn@*.service' |
    awk -v own=" $* " '$3 == "active" && $4 == "running" && !index(own, " " $1 " ") {
      name = $1
      sub(/\.service$/, "", name)
      print name " " name ", which is running"
    }'
}

# affected_routes: rules by which packets take other ways than the main table says.
affected_routes() {
  {
    ip -6 rule show 2> /dev/null || true # there may be no IPv6
    ip rule show
  } | awk '!/^(0|32766|32767):/ { $1 = ""; sub(/^ /, ""); print "policy-route the rule: " $0 }'
}

# affected_forwarding OWN…: what has packets passed on now.
affected_forwarding() {
  local key on all=''
  for key in ipv4/ip_forward ipv6/conf/all/forwarding; do
    [ ! -e "/proc/sys/net/$key" ] || { read -r on < "/proc/sys/net/$key" && all+=$on; }
  done
  case $all in *1*) ;; *) return 0 ;; esac
  affected_links "$@" && affected_engines "$@"
}

# affected_tables OWN…: tables of a packet filter beside ours, whose rules let through what ours drops.
affected_tables() {
  local file name
  if command -v nft > /dev/null; then
    nft list tables | awk -v own=" $* " '
      { name = $2 "." $3 }
      !index(own, " " name " ") { print "table:" name " the table " $2 " " $3 }'
  fi
  for file in /proc/net/ip_tables_names /proc/net/ip6_tables_names; do
    [ -s "$file" ] || continue
    name=${file##*/}
    while IFS= read -r line; do echo "table:${name%%_*}.$line the ${name%s_names} table $line (legacy)"; done < "$file"
  done
}

# affected_servers PROTOCOL/PORT…: who listens to others at a port that is not one of these; one may be a range.
affected_servers() {
  ss --no-header --listening --tcp --udp --numeric --processes |
    awk -v open="$*" '
      BEGIN { count = split(open, words, " ") }
      {
        at = $5
        sub(/%[^:]*/, "", at)
        port = at
        sub(/^.*:/, "", port)
        if (at ~ /^(127\.|\[::1\]|\[::ffff:127\.)/) next
        if ($1 == "udp" && port ~ /^(68|546)$/) next
        for (i = 1; i <= count; i++) {
          split(words[i], part, "/")
          m = split(part[2], ends, "-")
          if (part[1] == $1 && port + 0 >= ends[1] + 0 && port + 0 <= ends[m] + 0) next
        }
        who = "somebody"
        if (match($0, /\(\("[^"]*"/)) who = substr($0, RSTART + 3, RLENGTH - 4)
        print $1 "/" port " " who " listens at " $1 "/" port
      }'
}

# affected_units UNIT… + PACKAGE…: those of the units that run, and units of the packages that do.
affected_units() {
  local names=() present=() line
  while [ $# -gt 0 ] && [ "$1" != + ]; do
    names+=("$1")
    shift
  done
  [ $# -eq 0 ] || shift
  sure_fact packages package_states || return
  while [ $# -gt 0 ]; do
    case $FK_FACT in *$'\n'"$1 installed"$'\n'*) present+=("$1") ;; esac
    shift
  done
  [ ${#present[@]} -eq 0 ] || mapfile -t -O "${#names[@]}" names < <(dpkg-query --listfiles "${present[@]}" |
    sed --quiet --regexp-extended 's|^(/usr)?/lib/systemd/system/([^/@]+\.(service\|socket\|timer\|mount\|automount))$|\2|p')
  [ ${#names[@]} -eq 0 ] || systemctl list-units --plain --no-legend --no-pager --state=active "${names[@]}" |
    while read -r line _; do printf '%s\n' "$line the unit $line, which is active"; done
}

# affected_logins GROUP NAME…: accounts that may log in over SSH now, by a key or a password, and are none of these.
affected_logins() {
  local group=$1 name home shell password methods keys
  shift
  sure_fact sshd-says sshd_says || return
  methods=$FK_FACT
  # Then it is so already.
  case $methods in *$'\n'"allowgroups $group"$'\n'*) return 0 ;; esac
  entries passwd || return
  while IFS=: read -r name _ _ _ _ home shell; do
    case $shell in *nologin | *false | *sync | *shutdown | *halt) continue ;; esac
    case " $* " in *" $name "*) continue ;; esac
    read -r _ password _ < <(passwd --status "$name")
    # A cloud image has a key for root that says which user to take.
    keys=$(grep --invert-match --extended-regexp '^#|^$|command="echo ' "$home/.ssh/authorized_keys" 2> /dev/null) || true
    if [ -n "$keys" ]; then
      echo "login:$name $name, who has a key to log in over SSH"
    elif [ "$name" != root ] && [ "$password" = P ] && [[ $methods == *$'\n'passwordauthentication\ yes$'\n'* ]]; then
      echo "login:$name $name, who may log in over SSH by password"
    fi
  done < "$FK_ENTRIES"
}

# sshd_says [-f FILE]: the settings of sshd by its files, or by FILE.
sshd_says() { sshd -T -C user=nobody,host=admin.example,addr=192.0.2.1,laddr=192.0.2.2,lport=22 "$@"; }

# sshd_ports [-f FILE]: at which ports sshd listens by them.
sshd_ports() { sshd_says "$@" | sed --quiet 's/^listenaddress .*://p' | LC_ALL=C sort --unique; }
export -f sshd_says sshd_ports

# sshd_keeps_ports: the drop-ins alone name every port of sshd that is not its default.
sshd_keeps_ports() {
  local line kept lost=''
  echo 'Include /etc/ssh/sshd_config.d/*.conf' > "$FK_TMP/drop-ins" # sshd closes what it has inherited
  kept=$(sshd_ports -f "$FK_TMP/drop-ins") || return
  sure_fact sshd-says sshd_says || return
  for line in "${FK_LINES[@]}"; do
    case $line in 'listenaddress '*) ;; *) continue ;; esac
    line=${line##*:}
    case $'\n'$kept$'\n' in *$'\n'"$line"$'\n'*) ;; *) lost+=" $line" ;; esac
  done
  echo "${lost# }"
  [ -z "$lost" ]
}

# sshd_will_show KEY…: one of these host keys is among the Ed25519 and RSA keys of this machine, which are printed.
sshd_will_show() {
  local keys key kind
  keys=$(find /etc/ssh \( -name ssh_host_ed25519_key -o -name ssh_host_rsa_key \) -exec ssh-keygen -y -f {} \; |
    while read -r kind key _; do printf '%s\n' "$kind $key"; done)
  for key; do
    case $'\n'$keys$'\n' in *$'\n'"$key"$'\n'*) return 0 ;; esac
  done
  printf 'pinned: %s; sshd will show:\n%s\n' "${*%% *}" "$keys"
  return 1
}

# network_apart DEV NETWORK [ADDRESS]: in NETWORK nothing of this machine lies but behind DEV, nor does ADDRESS.
network_apart() {
  local all
  all=$({
    ip -4 route show table all root "$2"
    ip -4 route show table all match "$2" scope link | grep --invert-match '^default' || true # none is an answer
    [ $# -lt 3 ] || ip -4 route get "$3"
  } | grep --fixed-strings ' dev ' | grep --invert-match --fixed-strings " dev $1 " | LC_ALL=C sort --unique) || true # nor here
  printf '%s\n' "${all:-nobody has $2}"
  [ -z "$all" ]
}
