// Documents of libvirt as templates: hides XML, the attributes fortress:if and fortress:each, and {{ names }}.
import { type Element, type Node as XmlNode, DOMParser, XMLSerializer } from '@xmldom/xmldom'
import { read } from '../ground/root.ts'

const namespace = 'urn:fortress-kit:domain'

/** What a document is filled in with. */
export interface Filling {
  /** The words of fortress:if that are true; a word that is missing here is false. */
  when: Record<string, boolean>
  values: Record<string, string | number>
  /** For fortress:each: one set of values for each copy of the element. */
  each?: Record<string, Record<string, string | number>[]>
}

const words = ['kvm', 'tcg', 'amd64', 'arm64', 'flatcar', 'talos', 'console', 'kata', 'alone', 'vault']

/**
 * The document at `path` with its conditions and values filled in, indented. Throws TypeError when template and values do not
 * fit.
 */
export function render(path: string, filling: Filling): string {
  const document = new DOMParser({
    onError: (level, said) => {
      throw new TypeError(`${path}: ${level}: ${said}`)
    },
  }).parseFromString(read(path), 'text/xml')
  const top = document.documentElement as Element
  const fill = (text: string, values: Filling['values']): string =>
    text.replaceAll(/\{\{ ([a-z_]+) \}\}/g, (_, name: string) => {
      const value = values[name]
      if (value === undefined) throw new TypeError(`${path} asks for {{ ${name} }}, which has no value`)
      return String(value)
    })
  const holds = (condition: string): boolean =>
    condition.split(' ').every((word) => {
      const name = word.replace(/^!/, '')
      if (!words.includes(name)) throw new TypeError(`${path}: fortress:if does not know '${name}'`)
      return (filling.when[name] ?? false) === (name === word)
    })
  const visit = (element: Element, values: Filling['values'], depth: number): void => {
    element.removeAttributeNS(namespace, 'if')
    for (const attribute of Array.from(element.attributes)) {
      if (attribute.name === 'xmlns:fortress') element.removeAttributeNode(attribute)
      else attribute.value = fill(attribute.value, values)
    }
    const children: XmlNode[] = []
    for (const child of Array.from(element.childNodes)) {
      element.removeChild(child)
      if (child.nodeType === child.TEXT_NODE) {
        const text = child.nodeValue ?? ''
        if (text.trim() !== '') children.push(document.createTextNode(fill(text.trim(), values)))
      } else if (child.nodeType === child.ELEMENT_NODE) {
        const inner = child as Element
        const condition = inner.getAttributeNS(namespace, 'if')
        if (condition !== null && !holds(condition)) continue
        const list = inner.getAttributeNS(namespace, 'each')
        inner.removeAttributeNS(namespace, 'each')
        const copies = list === null ? [values] : filling.each?.[list]
        if (copies === undefined) throw new TypeError(`${path}: fortress:each does not know '${list}'`)
        for (const own of copies) {
          const copy = inner.cloneNode(true) as Element
          visit(copy, own, depth + 1)
          children.push(copy)
        }
      }
    }
    const lines = children.some((child) => child.nodeType === child.ELEMENT_NODE)
    for (const child of children) {
      if (lines) element.appendChild(document.createTextNode(`\n${'  '.repeat(depth + 1)}`))
      element.appendChild(child)
    }
    if (lines) element.appendChild(document.createTextNode(`\n${'  '.repeat(depth)}`))
  }
  visit(top, filling.values, 0)
  return `${new XMLSerializer().serializeToString(top)}\n`
}
