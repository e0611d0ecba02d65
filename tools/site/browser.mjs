// Browser looks at a built site in Chromium, at 380 and 1400 pixels, light and dark: no page is wider than the screen, and no
// page reports an error. It searches, and writes screenshots.
//
//	node browser.mjs FOLDER SCREENSHOTS
import { createServer } from 'node:http'
import { mkdirSync, readFileSync, readdirSync } from 'node:fs'
import { extname, join, normalize } from 'node:path'
import { chromium } from 'playwright-core'

const [folder, screenshots] = process.argv.slice(2)
const types = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.json': 'application/json', '.woff2': 'font/woff2' }
const shown = ['index.html', 'docs/quick-start.html', 'docs/targetcluster.html']

const server = createServer((request, response) => {
  const path = normalize(decodeURI(new URL(request.url, 'http://site').pathname)).replace(/\/$/, '/index.html')
  try {
    const content = readFileSync(join(folder, path))
    response.writeHead(200, { 'Content-Type': types[extname(path)] ?? 'application/octet-stream' }).end(content)
  } catch {
    response.writeHead(404).end()
  }
})
await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
const address = `http://127.0.0.1:${server.address().port}/`

const problems = []
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
})
try {
  mkdirSync(screenshots, { recursive: true })
  for (const width of [380, 1400]) {
    for (const colorScheme of ['light', 'dark']) await look(width, colorScheme)
  }
  await search()
} finally {
  await browser.close()
  server.close()
}
if (problems.length > 0) {
  console.error(problems.join('\n'))
  process.exit(1)
}

// look opens the pages. Colours do not change how wide they are, so all pages are opened once for each width.
async function look(width, colorScheme) {
  const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme })
  let path = ''
  page.on('pageerror', error => problems.push(`${path} at ${width} pixels: ${error}`))
  page.on('response', answer => answer.ok() || problems.push(`${path}: ${answer.url()} answers ${answer.status()}`))
  const all = readdirSync(folder, { recursive: true }).filter(file => file.endsWith('.html') && file !== '404.html')
  for (path of colorScheme === 'light' ? all : shown) {
    await page.goto(address + path, { waitUntil: 'networkidle' })
    if (await page.locator('.mermaid').count() > 0) await page.locator('.mermaid svg').first().waitFor()
    const needed = await page.evaluate(() => document.documentElement.scrollWidth)
    if (needed > width) problems.push(`${path} is ${needed} pixels wide on a screen of ${width}`)
    if (shown.includes(path)) await page.screenshot({ path: join(screenshots, `${path.replaceAll('/', '-').replace('.html', '')}-${width}-${colorScheme}.png`) })
  }
  await page.close()
}

// search finds a page by a word in it.
async function search() {
  const page = await browser.newPage({ viewport: { width: 1400, height: 900 } })
  await page.goto(address, { waitUntil: 'networkidle' })
  await page.locator('.DocSearch-Button').click()
  await page.locator('.search-input').fill('CredentialRejected')
  const first = page.locator('.VPLocalSearchBox .result').first()
  try {
    await first.waitFor({ timeout: 20_000 })
    await page.screenshot({ path: join(screenshots, 'search.png') })
    await page.keyboard.press('Enter')
    await page.waitForURL(/docs\//, { timeout: 20_000 })
  } catch (error) {
    problems.push(`searching: ${error}`)
  }
  await page.close()
}
