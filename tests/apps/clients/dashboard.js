// Drives the dashboard in headless Chromium, and prints what it saw as one line of JSON. Arguments: what to do (`operate`,
// `look`), the admin's URL, the proxy's URL, the directory for screenshots, and the token.
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { chromium } = require('playwright-core');

const [what, admin, proxy, screenshots, token] = process.argv.slice(2);
const VIEWS = ['overview', 'families', 'invalidations', 'writes', 'top', 'entries', 'explain', 'purge', 'warm', 'rules'];
const DESKTOP = { width: 1440, height: 900 };
const PHONE = { width: 390, height: 844 };
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage', '--no-proxy-server'];

let page;
// What the browser's console says of errors, and requests to other origins than the admin's.
const errors = [];
const foreign = [];

async function open(browser, options) {
  const context = await browser.newContext({ viewport: DESKTOP, ...options });
  page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('request', (request) => request.url().startsWith(admin) || foreign.push(request.url()));
  return context;
}

const show = async (view, query = '') => {
  await page.goto(`${admin}/#/${view}${query}`);
  await page.locator(`.view.${view} .panel`).first().waitFor();
};

const shoot = (name) => page.screenshot({ path: path.join(screenshots, `${name}.png`), fullPage: true });

const text = (selector) => page.locator(selector).first().innerText();

const read = (target, headers) => fetch(proxy + target, { headers }).then((answer) => answer.headers.get('cache-status'));

// Signs in, and sees a hit, a write and its invalidation; previews and purges a family; asks why.
async function operate(browser) {
  const seen = {};
  await open(browser);
  await page.goto(admin);
  await page.getByLabel('Token').fill('wrong');
  await page.getByRole('button', { name: 'Sign in' }).click();
  seen.refused = await text('.sign-in .fault');
  await shoot('sign-in');
  await page.getByLabel('Token').fill(token);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.locator('.hero .lead').waitFor();
  // The browser tells of the two requests that were refused.
  errors.length = 0;

  await read('/users');
  await read('/users');
  await show('invalidations');
  await page.locator('[data-state="live"]').waitFor();
  // Not every request is in the sample.
  for (let turn = 0; turn < 50 && await page.locator('.ticker .is-hits').count() === 0; turn++) {
    await read('/users');
    await page.waitForTimeout(200);
  }
  seen.hit = await page.locator('.ticker li').filter({ hasText: 'hit' }).first().locator('code').innerText();

  await fetch(`${proxy}/users/create`, { method: 'POST' });
  const entry = page.locator('.log .entry').filter({ hasText: '/users/create' }).first();
  await entry.waitFor();
  seen.invalidation = {
    cause: await entry.locator('.cause').innerText(),
    rule: await entry.locator('.rule').innerText(),
    families: await entry.locator('.chip.family').allInnerTexts(),
  };
  await shoot('invalidation');

  await fetch(`${proxy}/photos/7`, { method: 'POST' });
  await show('writes');
  seen.unmatched = await text('.view.writes .cardlist h3');

  // A path alone names the host that Larder listens on: what is stored under the host of clients is offered.
  await show('explain', '?url=/users');
  await page.locator('.elsewhere a').click();
  await page.locator('.verdict .chip.bad').waitFor();
  seen.explained = await text('.verdict .does');
  seen.story = await page.locator('.story li').filter({ has: page.locator('.chip.bad') }).first().innerText();
  await shoot('explain');
  await page.getByLabel('URL as clients send it').fill('/private');
  await page.getByLabel('URL as clients send it').press('Enter');
  await page.locator('.verdict').filter({ hasText: '/private' }).waitFor();
  seen.why = await text('.verdict p:nth-child(3)');

  await read('/users');
  await read('/users?page=2');
  await show('entries', '?family=user_list');
  await page.locator('table.cards tbody tr').nth(1).waitFor();
  await page.locator('.toggle.url').first().click();
  await page.locator('.drawer .terms').first().waitFor();
  seen.tags = await page.locator('.drawer dd li code').allInnerTexts();
  await shoot('entry');
  await page.keyboard.press('Escape');
  await page.locator('.drawer').waitFor({ state: 'detached' });

  await show('families', '?family=user_list');
  await page.getByRole('link', { name: 'Purge…' }).click();
  await page.getByRole('button', { name: 'Preview' }).click();
  seen.preview = await text('.preview .value');
  seen.stillHit = await read('/users');
  await shoot('preview');
  await page.locator('.preview .danger').click();
  await page.locator('.receipt').waitFor();
  seen.receipt = await text('.receipt');
  seen.purged = await read('/users');
  await show('invalidations', '?cause=purge');
  await page.locator('.log .entry').first().waitFor();
  seen.purge = await text('.log .entry .cause');
  await shoot('purge');

  await show('rules');
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByLabel('Token').waitFor();
  seen.signedOut = await page.evaluate(() => Object.keys(sessionStorage).length);
  return seen;
}

// Every view on a desktop, in light and dark, and on a phone: accessibility, width, screenshots; then keys and charts.
async function look(browser) {
  const axe = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
  const seen = { violations: [], wide: [], backgrounds: {} };
  for (const target of ['/users', '/users', '/users/7', '/users/7', '/private']) await read(target);
  for (const target of ['/users/create', '/photos/7']) await fetch(proxy + target, { method: 'POST' });
  const check = async (where) => {
    await page.evaluate(axe);
    // Not among the rules that run by default: WCAG 2.2, 2.5.8, for fingers.
    const { violations } = await page.evaluate(() => axe.run({ rules: { 'target-size': { enabled: true } } }));
    seen.violations.push(...violations.map(({ id, nodes }) => `${where}: ${id} at ${nodes[0].target}`));
  };
  for (const [size, viewport] of [['desktop', DESKTOP], ['phone', PHONE]]) {
    const context = await open(browser, { viewport });
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
      for (const view of VIEWS) {
        await show(view, view === 'explain' ? '?url=/users/7?a-parameter-with-a-long-name=and-a-long-value-too' : view === 'families' ? '?family=user_list' : '');
        // The view has asked for its data; the answers take less.
        await page.waitForTimeout(100);
        await check(`${view} ${size} ${colorScheme}`);
        const [content, screen] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
        if (content > screen) seen.wide.push(`${view} ${size}: ${content} > ${screen}`);
        await shoot(`${view}-${size}-${colorScheme}`);
      }
      seen.backgrounds[colorScheme] = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    }
    if (size === 'phone') {
      await page.getByRole('button', { name: 'Menu' }).click();
      await check('menu phone');
      await page.getByRole('link', { name: 'Top lists' }).click();
      await page.locator('.view.top').waitFor();
      await show('entries');
      await page.locator('.toggle.url').first().click();
      await page.locator('.drawer .terms').first().waitFor();
      await check('entry phone');
      await shoot('entry-phone');
    }
    await context.close();
  }
  await open(browser);
  await show('overview');
  await page.keyboard.press('2');
  await page.locator('.view.families').waitFor();
  await page.keyboard.press('?');
  seen.keys = await text('dialog h2');
  await page.keyboard.press('Escape');
  await page.keyboard.press('/');
  await page.locator('.view.explain').waitFor();
  await show('overview');
  await page.locator('.chart svg .area').first().waitFor();
  const chart = page.locator('.chart svg').first();
  await chart.focus();
  await page.keyboard.press('End');
  await page.keyboard.press('ArrowLeft');
  seen.tip = await text('.chart .tip');
  await page.locator('.chart summary').first().click();
  await page.locator('.chart .numbers tbody tr').first().waitFor();
  seen.rows = await page.locator('.chart .numbers tbody tr').count();
  return seen;
}

(async () => {
  fs.mkdirSync(screenshots, { recursive: true });
  const named = process.env.LARDER_TEST_CHROMIUM || 'chromium';
  const executablePath = execFileSync('sh', ['-c', 'command -v "$1"', 'sh', named], { encoding: 'utf8' }).trim();
  const browser = await chromium.launch({ executablePath, args: FLAGS });
  try {
    const seen = await { operate, look }[what](browser);
    console.log(JSON.stringify({ ...seen, errors, foreign }));
  } catch (error) {
    await page?.screenshot({ path: path.join(screenshots, `failed-${what}.png`), fullPage: true }).catch(() => {});
    console.error(error, errors);
    process.exitCode = 1;
  }
  await browser.close();
})();
