// The site: README and docs of a source tree as they are. docs/index.md is its navigation.
import { readFileSync } from 'node:fs'
import { posix } from 'node:path'
import { withMermaid } from 'vitepress-plugin-mermaid'
import { githubSlug, isPage, navigation } from '../pages.mjs'

const repository = 'https://github.com/keyferry/keyferry'

// What tools/site/build sets: the source tree, its version and where its site will be, and all versions.
const { SITE_SOURCE: source, SITE_OUT: outDir, SITE_VERSION: version, SITE_BASE: base, SITE_VERSIONS: versions } = process.env

const icon = 'data:image/svg+xml;base64,' + readFileSync(posix.join(source, 'docs/icon.svg')).toString('base64')

export default withMermaid({
  srcDir: source,
  rewrites: { 'README.md': 'index.md' },
  outDir,
  base,
  title: 'Keyferry',
  description: 'Pods that work on another Kubernetes cluster, without a kubeconfig',
  head: [['link', { rel: 'icon', href: icon }]],
  markdown: {
    anchor: { slugify: githubSlug },
    config: md => {
      const linkOpen = md.renderer.rules.link_open
      md.renderer.rules.link_open = (tokens, index, options, env, self) => {
        const token = tokens[index]
        token.attrSet('href', linkFrom(env.relativePath, token.attrGet('href')))
        return linkOpen(tokens, index, options, env, self)
      }
    },
  },
  themeConfig: {
    logo: icon,
    search: { provider: 'local' },
    outline: [2, 3],
    nav: [
      { text: 'Quick start', link: '/docs/quick-start' },
      { text: 'Documentation', link: '/docs/' },
    ],
    version,
    versions: versions.split(' ').filter(Boolean),
    sidebar: navigation(readFileSync(posix.join(source, 'docs/index.md'), 'utf8')),
    socialLinks: [{ icon: 'github', link: repository }],
  },
})

// linkFrom returns the link of a page as the site needs it. Files that are no pages are on GitHub.
function linkFrom(page, href) {
  if (/^([a-z]+:|#)/.test(href)) return href
  const [path, anchor] = href.split('#')
  const target = posix.normalize(posix.join(posix.dirname(page === 'index.md' ? 'README.md' : page), path))
  const suffix = anchor ? '#' + anchor : ''
  if (target === 'README.md') return '/' + suffix
  if (isPage(target)) return href
  return `${repository}/blob/${version}/${target}${suffix}`
}
