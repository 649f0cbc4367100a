// The credentials of the lab's machines: one ssh key and one password of the user admin, made once.
import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { $ } from '../ground/laptop.ts'
import { done } from './command.ts'
import { belongToCheckout } from './place.ts'

export interface Keys {
  identityFile: string
  passwordFile: string
  password: string
}

/** The lab's ssh key and admin's password: made once, 0600. */
export async function keys(lab: string): Promise<Keys> {
  const dir = path.join(lab, 'keys')
  const identityFile = path.join(dir, 'id')
  const passwordFile = path.join(dir, 'password')
  if (!fs.existsSync(dir)) {
    fs.mkdirSync(lab, { recursive: true })
    const fresh = fs.mkdtempSync(`${dir}.part-`)
    await done($`ssh-keygen -q -t ed25519 -N '' -C 'fortress-kit lab' -f ${path.join(fresh, 'id')}`)
    fs.writeFileSync(path.join(fresh, 'password'), `${randomBytes(15).toString('base64url')}\n`, {
      mode: 0o600,
    })
    try {
      fs.renameSync(fresh, dir)
    } catch {
      // Another process was quicker: its keys are as good.
      fs.rmSync(fresh, { recursive: true, force: true })
    }
    belongToCheckout(lab, dir, identityFile, `${identityFile}.pub`, passwordFile)
  }
  return { identityFile, passwordFile, password: fs.readFileSync(passwordFile, 'utf8').trim() }
}
