// ./task kubectl and ./task helm: the tools that pages use, for a person, and no kubeconfig lies in clear on the disk for it.
import { type ToolName, toolNames } from '../component/tools.ts'
import { $ } from '../ground/laptop.ts'
import { speakThrough } from '../ground/stop.ts'
import { answeringApi, openApi } from './api.ts'
import type { Call } from './call.ts'
import { openSession } from './session.ts'

/** `./task kubectl WORD…`: kubectl on the cluster of the site. Resolves to its exit code. */
export const kubectl = (call: Call): Promise<number> => tool('kubectl', call)

/** `./task helm WORD…`: helm on the cluster of the site. Resolves to its exit code. */
export const helm = (call: Call): Promise<number> => tool('helm', call)

/** What works without a cluster that answers. */
const offline = /^(completion|config|create|env|help|lint|options|package|show|template|verify|version)$/

async function tool(name: ToolName, { argv, signal }: Call): Promise<number> {
  const { site, words } = siteOf(argv)
  // Standard output belongs to the tool.
  const session = openSession({ site, json: true, document: true, signal })
  try {
    const alone =
      words.some((word) => /^(-h|--help|--client)$/.test(word)) || offline.test(words[0] ?? 'help')
    const api = await (alone ? openApi : answeringApi)(session, name === 'kubectl' ? ['kubectl'] : toolNames)
    try {
      // Ctrl-C is for the tool: the terminal sends it there, too.
      speakThrough(() => {})
      const running = $({ stdio: 'inherit', nothrow: true, env: api.environment })`exec ${name} ${words}`
      const stop = () => {
        if (signal.reason !== 130 || !process.stdin.isTTY) running.child?.kill('SIGTERM')
      }
      signal.addEventListener('abort', stop)
      const { exitCode } = await running.finally(() => signal.removeEventListener('abort', stop))
      return exitCode ?? 255
    } finally {
      api.close()
    }
  } finally {
    await session.close()
  }
}

/** `--site NAME` or `--site=NAME` in front is for us; everything behind it is for the tool. */
function siteOf(argv: string[]): { site: string | undefined; words: string[] } {
  const [first = '', second] = argv
  if (first === '--site') return { site: second, words: argv.slice(2) }
  const [, named] = /^--site=(.+)$/.exec(first) ?? []
  return { site: named, words: named === undefined ? argv : argv.slice(1) }
}
