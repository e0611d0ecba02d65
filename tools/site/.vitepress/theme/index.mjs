import DefaultTheme from 'vitepress/theme'
import { h } from 'vue'
import { useData } from 'vitepress'
import './style.css'

export default {
  extends: DefaultTheme,
  Layout: () => h(DefaultTheme.Layout, null, {
    'nav-bar-content-after': () => h(Versions),
    'nav-screen-content-after': () => h(Versions),
  }),
}

// Versions is the menu of versions. It is not part of the navigation of VitePress, which puts the path of this version before each link.
const Versions = {
  setup() {
    const { theme } = useData()
    const go = event => { window.location.href = event.target.value }
    return () => h('select', { class: 'versions', 'aria-label': 'Version', onChange: go },
      theme.value.versions.map(version => h('option', {
        value: version === 'main' ? '/' : `/${version}/`, selected: version === theme.value.version,
      }, version)))
  },
}
