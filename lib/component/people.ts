// Who of a site may have which rights in its cluster, and what page 54 declares for that: roles, and what no role can give.
import { read } from '../ground/root.ts'
import { catalogue } from '../site/catalogue.ts'
import type { Person, Site } from '../site/model.ts'

/** What a person can be in the cluster: the ClusterRoles fortress:ROLE of config/policy/people.yaml. */
export const grades = ['viewer', 'deployer', 'admin'] as const
export type Grade = (typeof grades)[number]

/** The account for the day when nothing else opens the cluster; nobody of a site has its name. */
export const breakGlass = { name: 'break-glass', secret: 'break-glass', file: 'break-glass.crt' }

/** What a certificate is at most good for: its binding is the only thing that takes it back. */
export const MAX_HOURS = 72

/** The group in the certificate of each person: by it admission knows them, and it has no rights. */
export const group = 'fortress:people'

/** The roles that somebody may be given, the greatest last. */
export function gradesOf({ roles }: Pick<Person, 'roles'>): Grade[] {
  const highest = Math.max(...roles.map((role) => grades.indexOf(role === 'owner' ? 'admin' : role)))
  return grades.slice(0, highest + 1)
}

/** Who may be given what, as people.sh reads it. */
export const wordsOf = ({ people }: Pick<Site, 'people'>): string[] =>
  people.map((person) => `${person.name}=${gradesOf(person).join(',')}`)

/** Namespaces that pages change and people do not: those of Kubernetes, and of every component. */
export const platform = (): string[] => [
  ...new Set([
    'kube-system',
    'kube-public',
    'kube-node-lease',
    'default',
    ...[...catalogue().values()].flatMap(({ namespace }) => namespace ?? []),
  ]),
]

/**
 * What people have who log in by the identity provider of the site, for as long as the document says so: bindings of their names
 * there. A deployer has none: which namespace is theirs stands in no document, so they get certificates.
 */
export function loginsOf({ people, cluster: { oidc } }: Pick<Site, 'people' | 'cluster'>): object[] {
  if (oidc === undefined) return []
  const { username = 'email', prefix = '' } = oidc
  return people.flatMap(({ name, email, roles }) => {
    const role = gradesOf({ roles }).at(-1)
    const known = username === 'email' ? email : name
    if (known === undefined || role === 'deployer') return []
    const apiGroup = 'rbac.authorization.k8s.io'
    return [
      {
        apiVersion: `${apiGroup}/v1`,
        kind: 'ClusterRoleBinding',
        metadata: { name: `fortress-login:${name}`, labels: { 'fortress-kit': 'people' } },
        roleRef: { apiGroup, kind: 'ClusterRole', name: `fortress:${role}` },
        subjects: [{ apiGroup, kind: 'User', name: `${prefix}${known}` }],
      },
    ]
  })
}

/** The objects of config/policy/people*.yaml and the logins of the site, one manifest each. */
export function manifestsOf(site: Pick<Site, 'people' | 'cluster'>): string[] {
  const text = ['people', 'people-guard'].map((name) => read(`config/policy/${name}.yaml`)).join('---\n')
  const logins = loginsOf(site).map((one) => JSON.stringify(one))
  return [...text.replace("'{{ platform }}'", JSON.stringify(platform())).split(/^---$/m), ...logins]
}
