// Check follows each link of a built site: its page, and the element that it names, must be there.
//
//	node check.mjs FOLDER
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { posix } from 'node:path'

const [folder] = process.argv.slice(2)
const ids = new Map()
const pages = readdirSync(folder, { recursive: true }).filter(file => file.endsWith('.html'))
for (const page of pages) {
  ids.set(page, new Set([...read(page).matchAll(/ id="([^"]*)"/g)].map(m => m[1])))
}
const broken = []
for (const page of pages) {
  for (const [, href] of read(page).matchAll(/<a [^>]*href="([^"]*)"/g)) {
    if (/^[a-z]+:/.test(href)) continue
    const [path, anchor] = decodeURI(href).split('#')
    let target = path === '' ? page : posix.join('/', path.startsWith('/') ? path : posix.join(posix.dirname(page), path)).slice(1)
    if (target === '' || target.endsWith('/')) target += 'index.html'
    if (!existsSync(posix.join(folder, target)) || (anchor && ids.has(target) && !ids.get(target).has(anchor))) broken.push(`${page}: ${href}`)
  }
}
if (pages.length === 0) broken.push(`${folder} has no pages`)
if (broken.length > 0) {
  console.error('links that lead nowhere:\n' + broken.join('\n'))
  process.exit(1)
}

function read(page) {
  return readFileSync(posix.join(folder, page), 'utf8')
}
