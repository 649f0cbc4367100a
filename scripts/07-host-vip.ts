#!/usr/bin/env -S npx --no-install tsx
// One address for the API of several servers, moved by keepalived to one that answers.
//
// Needs   cluster.api.vip in the site document: a free address of the network that the servers are in.
// Leaves  keepalived on every server. The address stands nowhere until an API server answers, and on one of them from then on.
// Undo    stops keepalived, and the address is gone: kubeconfigs and joins that name it fail until a server is named instead.
import { file } from '../lib/engine/file.ts'
import { packages } from '../lib/engine/packages.ts'
import type { Control, Demand, Step } from '../lib/engine/step.ts'
import { type Command, sh } from '../lib/ground/sh.ts'
import { script } from '../lib/script.ts'
import { type VipMember, vipOf } from '../lib/site/cluster.ts'

const dir = '/etc/keepalived'
const unit = 'keepalived.service'

export default script(
  import.meta,
  { layer: 'L0', on: 'host', prepare: interfaceShell() },
  ({ site, machine }) => {
    const member = vipOf(site, machine.name)
    if (member === undefined) return [noAddress]
    return [packages(['keepalived', 'curl']), ...configuration(member), running(member)]
  },
)

const noAddress: Demand = {
  name: 'no keepalived runs, because no address moves between this machine and others',
  check: sh`! systemctl --quiet is-active ${unit}`,
  help: `systemctl disable --now ${unit}, or write cluster.api.vip into the site document`,
}

/** What keepalived reads. Its peers are named: it speaks to these servers and listens to nobody else. */
function configuration({ name, address, vip, id, priority, peers }: VipMember): Step[] {
  const interfaceFile = `${dir}/interface.conf`
  return [
    file('/usr/local/sbin/fortress-api-answers', {
      from: 'config/host/fortress-api-answers',
      mode: '755',
      test: sh`bash -n "$new"`,
      name: 'a script checks that the API server of this machine answers',
    }),

    file(`/etc/systemd/system/${unit}.d/fortress.conf`, {
      from: 'config/host/keepalived-unit.conf',
      then: [sh`systemctl daemon-reload`],
      name: `${unit} is restarted at once when it dies`,
    }),

    {
      name: `keepalived uses the network interface of ${address}`,
      check: sh`diff <(vip_interface ${address}) ${interfaceFile}`,
      apply: [
        sh`record_before ${interfaceFile} && install --directory --mode=755 ${dir}`,
        sh`vip_interface ${address} > ${interfaceFile}`,
        sh`systemctl try-reload-or-restart ${unit}`,
      ],
    },

    file(`${dir}/keepalived.conf`, {
      from: 'config/host/keepalived.conf',
      values: { name, address, vip, id, priority, peers: peers.map((peer) => `    ${peer}`).join('\n') },
      // Its text alone: with the interface of this machine, or any where none is known yet, and a script that every machine has.
      test: sh`
        keepalived --version > /dev/null 2>&1 &&
          use=$(sed --quiet 's/^[$]_INTERFACE=//p' ${interfaceFile} 2> /dev/null ||
            ls /sys/class/net | grep --invert-match ^lo) &&
          sed "/^include/d; s/[$]_INTERFACE/$(head --lines=1 <<< "$use")/; s|\"/usr/local/.*\"|/usr/bin/true|" \
            "$new" > "$new.test" &&
          { keepalived --config-test --use-file="$new.test" || { rm "$new.test" && false; }; } && rm "$new.test"`,
      then: [sh`systemctl try-reload-or-restart ${unit}`],
      name: `keepalived.conf gives ${vip} to one server that answers`,
      why: 'kubeconfigs and joining nodes name this address, so that no single server is the cluster',
    }),
  ]
}

function running(member: VipMember): Step {
  return {
    name: 'keepalived runs, and starts at boot',
    check: sh`systemctl --quiet is-enabled ${unit} && systemctl --quiet is-active ${unit}`,
    apply: [sh`systemctl enable ${unit}`, sh`systemctl restart ${unit}`],
    undo: [sh`systemctl disable --now ${unit}`],
    controls: [answers(member)],
  }
}

const answers = ({ vip }: VipMember): Control => ({
  id: 'V01',
  title: `The API answers at ${vip}, and on this machine the address stands only while its own API answers`,
  check: sh`
    dir=/var/lib/rancher/k3s/agent
    [ -e "$dir/client-kubelet.key" ] || { echo 'k3s does not run here yet'; exit 100; }
    if ip -oneline -4 address show | grep --fixed-strings ${` ${vip}/32 `}; then fortress-api-answers whole; fi
    [ "$(curl --silent --max-time 5 --cacert "$dir/server-ca.crt" --cert "$dir/client-kubelet.crt" \
      --key "$dir/client-kubelet.key" https://${vip}:6443/livez)" = ok ]`,
  from: ['RFC 5798', 'kubeadm: high availability'],
})

/** Shell of this page alone: which interface has the address of this machine, in the words of keepalived. */
function interfaceShell(): Command {
  return sh`
    # vip_interface ADDRESS: the definition of $_INTERFACE.
    vip_interface() {
      ip -oneline -4 address show | awk -v wanted="$1" '
        split($4, part, "/") && part[1] == wanted { print "$_INTERFACE=" $2; found = 1 }
        END { exit !found }'
    }
    export -f vip_interface
  `
}
