// What the site's configuration decides without VitePress.
import { posix } from 'node:path'

// isPage reports whether a file of the source tree is a page of the site.
export function isPage(path) {
  return /^(docs\/.*|[A-Z]+)\.md$/.test(path)
}

// githubSlug returns the anchor of a heading as GitHub makes it: links in the pages work in both places.
export function githubSlug(heading) {
  return heading.trim().toLowerCase().replace(/[^\p{L}\p{N}\p{M}_ -]/gu, '').replaceAll(' ', '-')
}

// navigation returns the sidebar: a group for each heading of docs/index.md, and a link for each link below it.
export function navigation(index) {
  const groups = []
  for (const line of index.replaceAll(/\n {2,}/g, ' ').split('\n')) {
    const heading = line.match(/^## (.+)$/)
    if (heading) groups.push({ text: heading[1], items: [] })
    const link = line.match(/^- \[([^\]]+)\]\(([^)]+)\)/)
    if (link) groups.at(-1).items.push({ text: link[1], link: '/' + posix.join('docs', link[2]).replace(/\.md$/, '') })
  }
  return groups
}
