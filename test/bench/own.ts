// Hosts with processors of their own. In a bench eight hosts share the two cores of this computer, which eight machines do not:
// here a host's answers are recorded, each with the shortest time of five runs alone, and from then on every host gives them after
// that time, asleep meanwhile. The laptop, ssh, sshd and the network are real; sudo and the checks are not run.
import type { Fleet } from '../machine/fleet.ts'

const DIR = '/var/tmp/bench'

/** What sshd starts in place of each command. A program comes behind a mark (the last of them), its size stands in the command. */
const script = (mode: 'record' | 'replay') => `#!/bin/bash
case $SSH_ORIGINAL_COMMAND in *'head --bytes='*) ;; *) exec bash -c "$SSH_ORIGINAL_COMMAND" ;; esac
before='' mark=fortress-kit
case $SSH_ORIGINAL_COMMAND in *fortress-kit-root*) mark=fortress-kit-root ;; esac
while IFS= read -r line && [ "$line" != "$mark" ]; do before+=$line$'\\n'; done
bytes=\${SSH_ORIGINAL_COMMAND#*head --bytes=}
program=$(head --bytes="\${bytes%%)*}"; echo .)
program=\${program%.} nonce=\${program#*FK_NONCE=} page=\${program#*FK_PAGE=}
nonce=\${nonce%% *} page=${DIR}/\${page%% *}
${mode}() {
  ${
    mode === 'record'
      ? `local began=\${EPOCHREALTIME/./}
  # Its input stays open, as that of the laptop does.
  bash -c "$SSH_ORIGINAL_COMMAND" > "$page.out" < <(
    printf '%s%s\\n%s' "$before" "$mark" "$program"
    exec sleep 60 < /dev/null 2> /dev/null
  )
  code=$?
  echo "$((\${EPOCHREALTIME/./} - began)) $code" >> "$page.times"
  sed "s/$nonce/@NONCE@/" "$page.out" > "$page.new" && mv "$page.new" "$page.out"`
      : `local micro
  read -r micro code < "$page.times"
  sleep "$((micro / 1000000)).$(printf %06d $((micro % 1000000)))"`
  }
}
${mode}
sed "s/@NONCE@/$nonce/" "$page.out"
exit "$code"
`

/** Puts the script in place of what this host runs over ssh. */
async function install(many: Fleet, name: string, mode: 'record' | 'replay', answers = ''): Promise<void> {
  await many.on(
    name,
    `install --directory --owner=admin ${DIR} && cat > ${DIR}/answer && chmod 755 ${DIR}/answer &&
     echo 'ForceCommand ${DIR}/answer' > /etc/ssh/sshd_config.d/00-bench.conf && systemctl restart ssh`,
    script(mode),
  )
  if (answers !== '')
    await many.on(name, `base64 --decode | tar --extract --directory=${DIR} --no-same-owner`, answers)
}

/** From then on the hosts of the fleet answer as the first one answers to `ask`. Says how long each answer takes, in seconds. */
export async function ownProcessors(many: Fleet, ask: () => Promise<void>): Promise<string> {
  const [first] = many.names as [string]
  await install(many, first, 'record')
  for (let i = 0; i < 5; i++) await ask()
  const said = await many.on(first, `cd ${DIR} && grep '' *.times`)
  const times = new Map<string, [micro: number, code: string][]>()
  for (const [, page = '', micro, code = ''] of said.matchAll(/^(.*)\.times:(\d+) (\d+)$/gm))
    times.set(page, [...(times.get(page) ?? []), [Number(micro), code]])
  const answered = [...times].map(([page, all]) => ({
    page,
    micro: Math.min(...all.map(([micro]) => micro)),
    code: all[0]?.[1],
  }))
  for (const { page, micro, code } of answered)
    await many.on(first, `cat > ${DIR}/${page}.times`, `${micro} ${code}\n`)
  const answers = await many.on(first, `tar --create --directory=${DIR} --exclude=answer . | base64`)
  for (const name of many.names) await install(many, name, 'replay', answers)
  return answered.map(({ page, micro }) => `${page} ${(micro / 1e6).toFixed(2)}`).join(', ')
}
