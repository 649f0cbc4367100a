#!/usr/bin/env -S npx --no-install tsx
// A host starts anew when its updates ask for it: guests are shut down before, and everything is looked at again behind it.
//
// Needs   another computer to run from, and, where a person opens the vault, that person.
// Does    nothing while nothing waits for a reboot. Of several servers of a cluster one at a time, each drained before.
// Then    run it again when it was cut off: it continues where it was. ./task verify-all is what it ends with.
// Undo    nothing.
import type { Change, Demand, Step } from '../lib/engine/step.ts'
import { type Command, library, sh } from '../lib/ground/sh.ts'
import { type Member, clusterOf } from '../lib/k3s/members.ts'
import { drained, othersHealthy, uncordoned } from '../lib/k3s/nodes.ts'
import { type Context, script } from '../lib/script.ts'
import { guestsOf, machineOf, tunnelOf } from '../lib/site/machines.ts'

/** Seconds that guests may take to shut down, that the host may be away, and that what runs on it may take to come back. */
const [DOWN, AWAY, BACK] = [300, 900, 600]

const shell = library('lib/k3s/members.sh', 'lib/k3s/nodes.sh', 'lib/host/reboot.sh')
const prepare = sh`${wayBack()}
${bootShell()}
${guestShell()}
${goingDown()}
${afterwards()}`

export default script(
  import.meta,
  { layer: 'L0', on: 'host', library: shell, prepare, verifies: true },
  (context) => {
    const { name } = context.machine
    const members = clusterOf(context)
    const here = members.filter((member) => [member.name, hostOf(context, member)].includes(name))
    return [
      ...comesBack(context),
      rebooted(context, here, members),
      guestsBack(context),
      {
        name: `${name} has started, and no unit has failed that had not before`,
        check: sh`reboot_over units`,
        apply: [sh`reboot_units ${BACK}`],
        seconds: BACK + 30,
      },
      ...here.map((member) => ready(context, member, here, members)),
    ]
  },
)

const hostOf = ({ site }: Context, { name }: Member) => machineOf(site, name).vm?.host

/** What would not come back by itself is a reason to leave the host as it is. */
function comesBack(context: Context): Demand[] {
  const { site, machine } = context
  const spec = machineOf(site, machine.name)
  const end = tunnelOf(site, spec)
  const units = ['fortress-firewall.service', ...(end ? [`wg-quick@${end.interface}.service`] : [])]
  const vault = spec.vault?.disk ? spec.vault : undefined
  return [
    {
      name: 'no page was cut off here, and nobody has changed its files since',
      why: 'the machine starts with what is on the disk, and that has to be what was tried',
      check: sh`reboot_idle || { reboot_confirmed && reboot_clean; }`,
      help: `./task build-all ends what was begun.
./task plan-all shows what somebody has changed, ./task build-all takes it back`,
    },
    {
      name: 'SSH, tunnel and firewall start with the host, and their files are valid',
      check: sh`reboot_idle || reboot_doors ${units}`,
      help: `./task host-firewall apply and ./task host-wireguard apply enable what is theirs.
For SSH, on it: systemctl enable ssh`,
    },
    {
      name: 'the kernel that starts next is installed completely, and fstab is valid',
      check: sh`reboot_idle || reboot_bootable`,
      help: `on it: dpkg --configure --all; update-initramfs -u -k all.
A disk of fstab that may be missing gets the option nofail`,
    },
    {
      name: 'every virtual machine that runs starts with the host',
      check: sh`reboot_idle || reboot_guests_return`,
      help: 'on it: virsh autostart NAME for one that is to come back, virsh shutdown NAME for one that is not',
    },
    ...(vault
      ? [
          {
            name: `operator accepts that the vault of ${machine.name} stays closed until a person opens it`,
            why: 'what the cluster stores lies on it',
            check: sh`reboot_idle || reboot_vault_opens ${vault.name} ${vault.disk}`,
            help: `type ${machine.name} at the prompt, or say --confirm ${machine.name}; afterwards: ./task host-vault apply`,
            typed: machine.name,
          },
        ]
      : []),
  ]
}

/** A server of the cluster that stays up, where there is one. */
const helperOf = (here: Member[], members: Member[]): Member | undefined =>
  members.find(({ name, role }) => role === 'server' && !here.some((one) => one.name === name))

/** For the server that stays up: what ran here takes pods again. */
function returned(name: string): Change {
  const step = uncordoned(name)
  return { ...step, check: sh`reboot_apart ${name} || { ${step.check}; }` }
}

/** Guests go down, then the host. Where the cluster has a server elsewhere, that one drains what runs here before. */
function rebooted({ env, machine }: Context, here: Member[], members: Member[]): Change {
  const helper = helperOf(here, members)
  const server = here.find(({ role }) => role === 'server')
  const others = members.filter(({ name }) => !here.some((one) => one.name === name))
  // Where it is no member yet, nothing leaves it.
  const unless = (name: string, check: Command) => sh`reboot_apart ${name} || { ${check}; }`
  const before = [
    ...(server
      ? [othersHealthy(others, server)].map((wait) => ({ ...wait, until: unless(server.name, wait.until) }))
      : []),
    ...here.map(({ name }) => {
      const drain = drained(name, env.FK_DRAIN)
      return { ...drain, check: unless(name, drain.check) }
    }),
  ]
  const after = here.map(({ name }) => returned(name))
  const nodes = [machine.name, ...here.map(({ name }) => name)]
  return {
    name: `no update waits for a reboot of ${machine.name}`,
    why: 'until then the old kernel runs, whatever is installed',
    check: sh`reboot_current`,
    apply: [
      sh`reboot_notes ${nodes} && reboot_guests_down ${DOWN}`,
      // It begins when this run has let go of the machine, and not at all while another run is at work there.
      sh`systemd-run --quiet --collect --unit=fortress-reboot flock --timeout 60 /run/fortress/lock systemctl reboot`,
    ],
    recover: [sh`reboot_stay`],
    seconds: DOWN + 60,
    reboots: AWAY,
    ...(helper && here.length > 0 ? { onOtherNode: { on: helper.name, before, after, built: true } } : {}),
  }
}

/** Those that ran before, whoever owns them. */
function guestsBack({ site, machine }: Context): Change {
  // Talos has no SSH.
  const doors = guestsOf(site, machine.name).map(
    ({ name, address, os }) => `${name} ${address} ${os === 'talos' ? 50000 : 22}`,
  )
  return {
    name: 'the virtual machines that ran before the reboot run again, and answer',
    check: sh`reboot_over guests`,
    apply: [doors.length === 0 ? sh`reboot_guests_up ${BACK}` : sh`reboot_guests_up ${BACK} ${doors}`],
    seconds: BACK + 30,
  }
}

/** As a server elsewhere sees it, or the node itself: what others know of it may be from before. */
function ready({ machine }: Context, { name, role }: Member, here: Member[], members: Member[]): Change {
  const helper = helperOf(here, members)
  const asked = helper ?? here.find((one) => one.role === 'server')
  const note = `node-${name}`
  const step = {
    name: `${name} is Ready since the reboot`,
    check: sh`reboot_over ${note}`,
    apply: [sh`reboot_done ${note}`],
    seconds: BACK + 30,
  }
  const until = (by: string) => sh`reboot_node_ready ${role} ${name} ${by}`
  const returns = helper ? [returned(name)] : []
  if (name === machine.name)
    return {
      ...step,
      apply: [sh`reboot_wait ${BACK} reboot_node_ready ${role} ${name} ${name}`, ...step.apply],
      ...(helper ? { onOtherNode: { on: helper.name, before: [], after: returns } } : {}),
    }
  if (asked === undefined) return step
  const wait: Step = {
    name: `${name} is Ready, as the cluster sees it`,
    until: until(asked.name),
    seconds: BACK,
  }
  return { ...step, onOtherNode: { on: asked.name, before: [wait, ...returns], after: [] } }
}

/** Whether the host would come back as it is. */
function wayBack() {
  return sh`
REBOOT_NOTES=/var/lib/fortress/reboot
export REBOOT_NOTES

reboot_no() {
  printf '%s\n' "$*"
  return 1
}

REBOOT_WHY=$(reboot_reason)
export REBOOT_WHY

# reboot_current: nothing waits for a reboot. 101: it will be so after one.
reboot_current() { [ -z "$REBOOT_WHY" ] || { printf '%s\n' "$REBOOT_WHY"; return 101; }; }

# reboot_idle: there is no reason to reboot, so what would not come back is no matter of this page.
reboot_idle() { reboot_current > /dev/null; }

# reboot_clean: every page that began here has ended, and its files are as it left them.
reboot_clean() {
  local dir found=''
  for dir in "$FK_STATE"/pages/*/open; do
    [ ! -d "$dir" ] || [ "$(basename "$(dirname "$dir")")" = "$FK_PAGE" ] ||
      found+="$(basename "$(dirname "$dir")") has begun and not ended"$'\n'
  done
  found+=$(fk_strayed | awk -F '\t' '{ print $2 " is not as " $1 " left it" }')
  [ -z "\${found//$'\n'/}" ] || reboot_no "$(grep . <<< "$found" | head --lines=5)"
}

# reboot_confirmed: no change waits to be confirmed, which the next start would roll back.
reboot_confirmed() {
  local tx
  for tx in "$FK_STATE"/tx/*/armed; do
    [ ! -e "$tx" ] || reboot_no "a change of $(cat "\${tx%armed}owner") is not confirmed: a reboot would roll it back" || return
  done
}

# reboot_doors UNIT...: sshd starts with the host, and of these units those that are here do; sshd and nft take their files.
reboot_doors() {
  local unit said found=''
  systemctl --quiet is-enabled ssh.service 2> /dev/null || systemctl --quiet is-enabled ssh.socket 2> /dev/null ||
    reboot_no 'neither ssh.service nor ssh.socket is enabled' || return
  for unit; do
    systemctl cat "$unit" > /dev/null 2>&1 || continue # its page was not applied here
    said=$(systemctl is-enabled "$unit" 2>&1) || found+="$unit is $said"$'\n'
  done
  said=$(sshd -t 2>&1) || found+="sshd -t: $said"$'\n'
  [ ! -e /etc/nftables.conf ] || said=$(nft --check --file /etc/nftables.conf 2>&1) ||
    found+="/etc/nftables.conf: $(head --lines=1 <<< "$said")"$'\n'
  [ -z "$found" ] || reboot_no "\${found%$'\n'}"
}

export -f reboot_no reboot_current reboot_idle reboot_clean reboot_confirmed reboot_doors`
}

/** Whether its disks come back, and a kernel. */
function bootShell() {
  return sh`
# reboot_bootable: each kernel has what it starts from, no package is half installed, and no line of fstab stops the start.
reboot_bootable() {
  local said kernel source target options found=''
  said=$(dpkg --audit 2>&1 | head --lines=3) || true # it ends with 1 where it finds one
  [ -z "$said" ] || found+="half installed: $said"$'\n'
  if compgen -G '/boot/initrd.img-*' > /dev/null; then
    for kernel in /boot/vmlinuz-*; do
      [ ! -e "$kernel" ] || [ -s "/boot/initrd.img-\${kernel#/boot/vmlinuz-}" ] || found+="$kernel has no initrd"$'\n'
    done
  fi
  while read -r source target options; do
    case ,$options, in *,noauto,* | *,nofail,*) continue ;; esac
    case $target:$source in
      none:* | swap:*) ;;
      *:/dev/*) [ -e "$source" ] || found+="fstab: $source for $target is not there"$'\n' ;;
      *:*UUID=* | *:*LABEL=*) found+="fstab: $source for $target is not there"$'\n' ;;
    esac
  done < <(findmnt --fstab --evaluate --noheadings --raw --output SOURCE,TARGET,OPTIONS 2> /dev/null)
  [ ! -e /etc/fstab ] || said=$(findmnt --fstab 2>&1 > /dev/null) || true # without a line it ends with 1
  [[ $said != *'parse error'* ]] || found+="fstab: $(head --lines=1 <<< "$said")"$'\n'
  [ -z "$found" ] || reboot_no "\${found%$'\n'}"
}

# reboot_vault_opens NAME DISK: nobody has to open it: crypttab does at the start, and the TPM2 gives the key now.
reboot_vault_opens() {
  local line
  line=$(awk -v name="$1" '$1 == name { print $4 }' /etc/crypttab 2> /dev/null) || return 0
  [ -n "$line" ] || return 0
  case ,$line, in *,noauto,*) reboot_no 'a person opens it after each start' || return ;; esac
  cryptsetup open --test-passphrase --token-only --token-type systemd-tpm2 "$2" > /dev/null 2>&1 ||
    reboot_no 'the TPM2 does not give its key any more'
}
export -f reboot_bootable reboot_vault_opens`
}

/** The virtual machines of the host, before and after. */
function guestShell() {
  return sh`
reboot_guests() {
  local said
  command -v virsh > /dev/null && pgrep qemu-system > /dev/null || return 0
  said=$(virsh --connect qemu:///system list --name 2>&1) || reboot_no "$said" || return
  grep . <<< "$said" || true # QEMU of somebody else runs
}

# Virsh writes twice: whoever ends after the first line ends it by SIGPIPE, and with it the check, in silence.
reboot_state() { virsh --connect qemu:///system domstate "$1" 2> /dev/null | awk 'NR == 1'; }

# reboot_guests_return: those that are up run, are defined, start with the host, and are not on trial.
reboot_guests_return() {
  local name state said found=''
  said=$(reboot_guests) || { reboot_no "could not ask libvirt: $said" || return 102; }
  while IFS= read -r name; do
    [ -n "$name" ] || continue
    state=$(reboot_state "$name")
    if [ "$state" != running ]; then
      found+="$name is $state, and would not shut down"$'\n'
    elif [ -e "/var/lib/fortress/vm/$name.trial" ]; then
      found+="$name is on trial: ./task vm-provision apply keeps it"$'\n'
    elif ! virsh --connect qemu:///system dominfo "$name" | grep --extended-regexp '^Autostart: +enable$' > /dev/null; then
      found+="$name does not start with the host"$'\n'
    fi
  done <<< "$said"
  [ -z "$found" ] || reboot_no "\${found%$'\n'}"
}

# reboot_guests_up SECONDS 'NAME ADDRESS PORT'...: libvirt has started all that ran; those of the site answer at their port.
reboot_guests_up() {
  local seconds=$1
  shift
  reboot_wait "$seconds" reboot_guests_run "$@" && reboot_done guests
}

reboot_guests_run() {
  local name address port door state
  while IFS= read -r name; do
    [ -n "$name" ] || continue
    state=$(reboot_state "$name")
    [ "$state" = running ] || reboot_no "$name is \${state:-unknown to libvirt}" || return
    for door; do
      read -r port address <<< "\${door##* } $(cut --delimiter=' ' --fields=2 <<< "$door")"
      [ "\${door%% *}" != "$name" ] || timeout 5 bash -c 'exec 3<> "/dev/tcp/$1/$2"' bash "$address" "$port" 2> /dev/null ||
        reboot_no "$name does not answer at $address, port $port" || return
    done
  done < "$REBOOT_NOTES/guests"
}
export -f reboot_guests reboot_state reboot_guests_return reboot_guests_up reboot_guests_run`
}

/** Before the host goes down, and where it stays up after all. */
function goingDown() {
  return sh`
# reboot_notes HOST NODE...: what has to be looked at when the host is back: units, guests, and of these nodes those that run.
reboot_notes() {
  local node host=$1
  shift
  rm --recursive --force "$REBOOT_NOTES"
  install --directory --mode=700 "$REBOOT_NOTES"
  reboot_guests > "$REBOOT_NOTES/guests" && reboot_failed > "$REBOOT_NOTES/units" || return
  for node; do
    if [ "$node" = "$host" ]; then
      ! systemctl --quiet is-active k3s.service || : > "$REBOOT_NOTES/node-$node"
    elif grep --line-regexp --fixed-strings -e "$node" "$REBOOT_NOTES/guests" > /dev/null; then
      : > "$REBOOT_NOTES/node-$node"
    fi
  done
  sync --file-system "$REBOOT_NOTES"
}

# reboot_guests_down SECONDS: each shuts down by itself. One that does not keeps the host up: its power is never taken here.
reboot_guests_down() {
  local name left deadline=$((SECONDS + $1))
  while IFS= read -r name; do
    [ -z "$name" ] || virsh --connect qemu:///system shutdown "$name" > /dev/null || return
  done < "$REBOOT_NOTES/guests"
  while :; do
    left=''
    while IFS= read -r name; do
      [ -z "$name" ] || [ "$(reboot_state "$name")" = 'shut off' ] || left+=" $name"
    done < "$REBOOT_NOTES/guests"
    [ -n "$left" ] || return 0
    [ "$SECONDS" -lt "$deadline" ] || reboot_no "not shut down after $1 s:$left" || return
    sleep 1
  done
}

# reboot_stay: the host does not reboot after all, and what ran runs again.
reboot_stay() {
  local name
  while IFS= read -r name; do
    [ "$(reboot_state "$name")" != 'shut off' ] || virsh --connect qemu:///system start "$name" > /dev/null
  done < <(grep . "$REBOOT_NOTES/guests")
  rm --recursive --force "$REBOOT_NOTES"
}
export -f reboot_notes reboot_guests_down reboot_stay`
}

/** What is looked at afterwards. A note of it is there until it holds. */
function afterwards() {
  return sh`
# reboot_over NOTE: this was looked at since the last reboot by this page.
reboot_over() { [ ! -e "$REBOOT_NOTES/$1" ] || reboot_no 'it was not looked at since the reboot'; }

reboot_done() { rm --force "$REBOOT_NOTES/$1" && rmdir --ignore-fail-on-non-empty "$REBOOT_NOTES"; }

# reboot_wait SECONDS FUNCTION WORD...: until it holds; then says what it saw last.
reboot_wait() {
  local said deadline=$((SECONDS + $1))
  shift
  until said=$("$@"); do
    [ "$SECONDS" -lt "$deadline" ] || reboot_no "$said" || return
    sleep 2
  done
}

reboot_failed() {
  systemctl list-units --state=failed --plain --no-legend --no-pager | cut --delimiter=' ' --fields=1 | LC_ALL=C sort
}

# reboot_units SECONDS: the start has ended, and what failed in it had failed before, too.
reboot_units() {
  local new
  reboot_wait "$1" reboot_started || return
  new=$(reboot_failed | LC_ALL=C comm -23 - "$REBOOT_NOTES/units" | paste --serial --delimiters=' ')
  [ -z "$new" ] || reboot_no "failed since the reboot: $new" || return
  reboot_done units
}

reboot_started() {
  local state
  state=$(systemctl is-system-running 2>&1) || true # it ends with 1 for degraded
  case $state in running | degraded) ;; *) reboot_no "the host is $state" ;; esac
}

# reboot_apart NAME: here runs no k3s, or its cluster has no such node.
reboot_apart() { [ ! -L "$K3S" ] || node_absent "$1" > /dev/null; }

# reboot_node_ready ROLE NAME ASKED: it is Ready, and that is no report from before. Asked is the node itself, or a server of its
# cluster. Without a pod network no node is Ready, with or without a reboot.
reboot_node_ready() {
  local said ready boot message beat
  said='{range .status.conditions[?(@.type=="Ready")]}{.status} {.message}{end}'
  said=$(k3s_node "$([ "$2" = "$3" ] && echo "$1" || echo server)" "$2" "{.status.nodeInfo.bootID} $said" 2>&1) ||
    reboot_no "$said" || return
  read -r boot ready message <<< "$said"
  if [ "$2" = "$3" ]; then
    [ "$boot" = "$(cat /proc/sys/kernel/random/boot_id)" ] || reboot_no 'its kubelet has not reported since the start' || return
    k3s_answers "$1" "$2" || return
  else
    beat=$(k3s_kubectl get lease "$2" --namespace kube-node-lease --output jsonpath='{.spec.renewTime}' 2>&1) ||
      reboot_no "$beat" || return
    [ "$(date --date="$beat" +%s)" -ge $(($(date +%s) - 20)) ] || reboot_no "its last report is of $beat" || return
  fi
  case $ready:$message in
    True:* | False:*'cni plugin not initialized'*) ;;
    *) reboot_no "it is not Ready: $message" ;;
  esac
}
export -f reboot_over reboot_done reboot_wait reboot_failed reboot_units reboot_started reboot_apart reboot_node_ready`
}
