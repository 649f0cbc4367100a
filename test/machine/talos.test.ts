// The pages of Talos on a real machine, where a stand-in is talosctl and the node behind it. The laptop's talosctl is Talos' own
// code, so that secrets and certificates are real.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { parse } from 'yaml'
import { which } from '../../lib/ground/laptop.ts'
import { secretStore } from '../../lib/ground/secret.ts'
import { type Kit, node, root } from './kit.ts'
import { type Checkout, checkout, differences } from './laptop.ts'
import { left, printOf, runPrinted, sameLeft } from './printed.ts'

const built = join(root, '.cache/tools/talos-oracle')
const oracle = existsSync(built) ? built : which('talos-oracle')

describe('Talos', { skip: oracle === undefined ? 'talos-oracle is not installed' : false }, () => {
  const scratch = mkdtempSync(join(tmpdir(), 'fk-talos-'))
  const told = '/etc/fortress/vm/fortress-node.talos.yaml'
  const disk = '/var/lib/libvirt/fortress/fortress-node.cidata'
  const papers = '/etc/fortress/vm/fortress-node'
  const behind = '/usr/local/sbin/node'
  const door = `systemd-run --quiet --unit=door openssl s_server -accept 10.77.0.2:50000 \
  -cert /root/crt.pem -key /root/key.pem -Verify 1 -verify_return_error -quiet`
  let kit: Kit & { end(): Promise<void> }
  let copy: Checkout
  let untouched: string
  /** What both pages left, and the machine configuration as the host got it. */
  let [applied, config] = ['', '']
  const first = (...words: string[]) => kit.page(copy.page('12-vm-ignition'), ...words)
  const page = (...words: string[]) => kit.page(copy.page('14-vm-talos'), ...words)
  const ok = async (command: string, input?: string) => {
    const { code, stdout, stderr } = await kit.root(command, input)
    assert.equal(code, 0, stderr)
    return stdout
  }
  const asked = async (word: string) =>
    (await ok(`cat ${behind}/asked`)).split('\n').filter((line) => line.split(' ').includes(word))
  const template = (from: string, to: string) => {
    const file = join(copy.dir, 'config/vm/talos-controlplane.yaml')
    const text = readFileSync(file, 'utf8')
    assert.ok(text.includes(from), from)
    writeFileSync(file, text.replace(from, to))
  }
  const store = () =>
    secretStore({ dir: join(kit.state, 'fortress'), identity: join(kit.state, 'identity.txt') })

  before(async () => {
    kit = await node(undefined, 'talos', { net: true })
    copy = checkout()
    symlinkSync(oracle!, join(scratch, 'talosctl'))
    kit.env['PATH'] = `${scratch}${delimiter}${process.env['PATH']}`
    kit.env['FK_NODE_OS'] = 'talos'
    const standIn = readFileSync(join(root, 'test/fixtures/talos/talosctl'), 'utf8')
    await ok('cat > /usr/local/sbin/talosctl && chmod 755 /usr/local/sbin/talosctl', standIn)
    // What vm-host and vm-provision leave, and what the node would be.
    const version = /^talos:\n {2}version: (.*)$/m.exec(
      readFileSync(join(root, 'config/versions.yaml'), 'utf8'),
    )?.[1]
    await ok(`useradd --system libvirt-qemu && install --directory --mode=711 /var/lib/libvirt/fortress
install --directory ${behind} && echo ${version} > ${behind}/version
cd /root && openssl req -x509 -newkey ed25519 -nodes -subj /CN=admin -days 90 -keyout key.pem -out crt.pem 2> /dev/null
printf 'users:\\n- user:\\n    client-certificate-data: %s\\n' "$(base64 --wrap=0 crt.pem)" > ${behind}/kubeconfig
ip address add 10.77.0.2/32 dev lo
${door}`)
    untouched = await kit.digest()
  })
  after(async () => {
    copy?.end()
    await kit?.end()
    rmSync(scratch, { recursive: true })
  })

  test('vm-ignition writes down what the node is told, and the disk that it reads it from', async () => {
    const { code, text } = await first('apply')
    assert.equal(code, 0, text)
    assert.equal(
      await ok(`stat --format='%a %U' ${told} ${disk} && blkid --match-tag=LABEL --output=value ${disk}`),
      '600 root\n400 libvirt-qemu\ncidata\n',
    )
    const config = await ok(
      `xorriso -osirrox on -indev ${disk} -extract /user-data /root/user-data > /dev/null 2>&1 && cat /root/user-data`,
    )
    writeFileSync(join(scratch, 'config'), config)
    assert.equal(spawnSync(oracle!, ['validate', '--config', join(scratch, 'config')]).status, 0)
    const read = spawnSync(oracle!, ['read', join(scratch, 'config')], { encoding: 'utf8' }).stdout
    assert.deepEqual(parse(read), parse((await store().get('talos-secrets')).reveal()))
    await ok(`cp ${told} ${behind}/config && touch ${papers}.talosconfig`)
  })

  test('a second time there is nothing to do; a disk that tells something else is made anew', async () => {
    assert.doesNotMatch((await first('apply')).text, /^changed /m)
    await ok(`chmod 600 ${disk} && truncate --size=0 ${disk}`)
    assert.equal((await first('verify')).code, 1)
    assert.match((await first('apply')).text, /^changed +4\/4 /m)
  })

  test('what Talos would not take does not land, and no secret is shown with what is wrong', async () => {
    template('  ca:\n    crt', '  caa:\n    crt')
    const { code, text } = await first('apply')
    assert.equal(code, 1)
    assert.match(text, /unknown keys found during decoding:\s+machine:\s+caa:\s+crt:\s+key:$/m)
    template('  caa:\n', '  ca:\n')
    assert.equal((await first('verify')).code, 0)
  })

  test('vm-talos lets the cluster begin, once, and brings the laptop its kubeconfig', async () => {
    assert.equal((await page('plan')).code, 2)
    assert.deepEqual(await asked('bootstrap'), [])
    const { code, text } = await page('apply')
    assert.equal(code, 0, text)
    assert.equal((await asked('bootstrap')).length, 1)
    assert.equal(
      Buffer.from((await store().get('fortress-node-kubeconfig')).reveal(), 'base64').toString(),
      await ok(`cat ${behind}/kubeconfig`),
    )
    assert.equal(await ok(`stat --format='%a %U' ${papers}.kubeconfig`), '600 root\n')
  })

  test('everything that it promises holds, and a second time there is nothing to do', async () => {
    const verified = await page('verify')
    assert.equal(verified.code, 0, verified.text)
    assert.match(verified.text, /7 of 7 controls hold/)
    const { code, text } = await page('apply')
    assert.deepEqual([code, /^changed /m.test(text)], [0, false], text)
    assert.equal((await asked('bootstrap')).length, 1)
    assert.deepEqual(await asked('--mode=no-reboot'), [])
  })

  test('a change is tried first, and kept when the node answers', async () => {
    template('podPidsLimit: 4096', 'podPidsLimit: 2048')
    assert.equal((await first('apply')).code, 0)
    const plan = await page('plan')
    assert.match(plan.text, /it would change:\n.*\+ podPidsLimit\n.*- podPidsLimit/)
    const { code, text } = await page('apply')
    assert.equal(code, 0, text)
    assert.match(await ok(`grep podPidsLimit ${behind}/kept`), /2048/)
  })

  test('a node that falls silent is left to take the change back, and is told nothing more', async () => {
    template('version: v1alpha1', '# silences the node\nversion: v1alpha1')
    template('podPidsLimit: 2048', 'podPidsLimit: 1024')
    assert.equal((await first('apply')).code, 0)
    const { code, text } = await page('apply')
    assert.equal(code, 1)
    assert.match(text, /it has not answered since: in two minutes it takes the change back by itself/)
    assert.match(await ok(`grep podPidsLimit ${behind}/kept`), /2048/)
    await ok(`cp ${behind}/kept ${behind}/config && rm ${behind}/silent`)
    template('# silences the node\n', '')
    template('podPidsLimit: 1024', 'podPidsLimit: 2048')
    assert.equal((await first('apply')).code, 0)
    assert.equal((await page('verify')).code, 0)
    ;[applied, config] = [await left(kit), await ok(`cat ${told}`)]
  })

  test('a door that is open to all fails, and so does etcd that has gone: it is not begun anew', async () => {
    await ok(`systemctl stop door && systemd-run --quiet --unit=open openssl s_server -accept 10.77.0.2:50000 -cert /root/crt.pem -key /root/key.pem -quiet
rm ${behind}/etcd`)
    const verified = await page('verify')
    assert.equal(verified.code, 1)
    assert.match(verified.text, /10\.77\.0\.2 port 50000 speaks to whoever comes/)
    const { code, text } = await page('apply')
    assert.equal(code, 1)
    assert.match(
      text,
      /etcd was bootstrapped here on .*, and is gone: a new bootstrap would forget what it held/,
    )
    assert.equal((await asked('bootstrap')).length, 1)
    await ok('systemctl stop open')
  })

  test('no secret was on a command line or in a log', async () => {
    const { certs } = parse((await store().get('talos-secrets')).reveal()) as {
      certs: Record<string, { key: string }>
    }
    const secrets = Object.values(certs).map(({ key }) => key)
    assert.equal(secrets.length, 5)
    const log = readdirSync(join(kit.state, 'log')).map((name) =>
      readFileSync(join(kit.state, 'log', name), 'utf8'),
    )
    const places = [...log, await ok(`cat ${behind}/asked`)]
    for (const secret of secrets) assert.ok(!places.some((text) => text.includes(secret)))
  })

  test('undo takes back what the pages brought', async () => {
    assert.equal((await page('undo')).code, 0)
    assert.equal((await first('undo')).code, 0)
    await ok(
      `rm --force ${papers}.talosconfig && rmdir --ignore-fail-on-non-empty /etc/fortress/vm /etc/fortress || true`,
    )
    assert.deepEqual(
      differences(untouched, await kit.digest()).filter((line) => !line.includes('unit door')),
      [],
    )
    assert.equal(await ok('ls /var/lib/libvirt/fortress'), '')
  })

  test('the printed pages leave the same as apply, and apply finds nothing to do behind them', async () => {
    // The node is made anew: it knows no etcd, and the host has no note about it.
    await ok(`${door} && rm /var/lib/fortress/vm/fortress-node.bootstrapped`)
    await runPrinted(kit, await printOf(kit, copy.page('12-vm-ignition')), {
      secrets: { 'fortress-node-talos-config': config },
    })
    await ok(`cp ${told} ${behind}/config && touch ${papers}.talosconfig`)
    await runPrinted(kit, await printOf(kit, copy.page('14-vm-talos')))
    assert.equal((await asked('bootstrap')).length, 2)
    // The stand-in notes what it is asked, and the host when etcd was bootstrapped.
    sameLeft(applied, await left(kit), new RegExp(`${behind}/|fortress-node\\.bootstrapped$`))
    await nothingToDo(first, page)
  })

  test('what vm-ignition prints for a node of Flatcar leaves the same as apply', async () => {
    kit.env['FK_NODE_OS'] = 'flatcar'
    const ignition = '/var/lib/libvirt/fortress/fortress-node.ign'
    const { code, text } = await first('apply')
    assert.equal(code, 0, text)
    const [was, secret] = [await left(kit), await ok(`cat ${ignition}`)]
    assert.equal((await first('undo')).code, 0)
    assert.equal((await kit.root(`test -e ${ignition}`)).code, 1)
    await runPrinted(kit, await printOf(kit, copy.page('12-vm-ignition')), {
      secrets: { 'fortress-node-ignition': secret },
    })
    sameLeft(was, await left(kit))
    await nothingToDo(first)
  })

  /** What a page printed was run: apply changes nothing, and verify passes. */
  const nothingToDo = async (...pages: (typeof page)[]) => {
    for (const each of pages) {
      const { code, text } = await each('apply')
      assert.equal(code, 0, text)
      // The copy for the laptop was saved on the machine.
      assert.doesNotMatch(text.replace(/^changed .*saved on the laptop.*$/m, ''), /^changed /m)
      const verified = await each('verify')
      assert.equal(verified.code, 0, verified.text)
    }
  }
})
