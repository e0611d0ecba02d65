// An ordinary program of a Kubernetes user, as the Go client beside it: it takes the in-cluster configuration, lists and watches
// namespaces without pause, counts what fails, and prints what it sees, a JSON line each second.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { AuthenticationV1Api, CoreV1Api, KubeConfig, Watch } from '@kubernetes/client-node';

const { version } = JSON.parse(readFileSync('/node_modules/@kubernetes/client-node/package.json'));
const report = {
  client: `JavaScript @kubernetes/client-node ${version} on Node.js ${process.versions.node}`, requests: 0, failures: 0, lastError: '', user: '', namespaces: [], watchEvents: 0,
};

// counted makes a request and keeps account of it; undefined if it failed.
async function counted(doing, request) {
  report.requests++;
  try {
    return await request();
  } catch (e) {
    report.failures++;
    report.lastError = `${doing}: ${String(e.cause ?? e).slice(0, 300)}`;
    return undefined;
  }
}

async function follow(kc) {
  for (;;) {
    await counted('watching namespaces', () => new Promise((resolve, reject) => {
      new Watch(kc).watch('/api/v1/namespaces', { timeoutSeconds: 300 }, () => report.watchEvents++, (e) => (e ? reject(e) : resolve()))
        .catch(reject);
    }));
    await sleep(1000);
  }
}

const kc = new KubeConfig();
kc.loadFromCluster();
const core = kc.makeApiClient(CoreV1Api);
const authentication = kc.makeApiClient(AuthenticationV1Api);
follow(kc);
for (let n = 0; ; n++) {
  if (n % 10 === 0) {
    const review = await counted('asking who I am', () => authentication.createSelfSubjectReview({ body: {} }));
    report.user = review?.status?.userInfo?.username ?? report.user;
  }
  const listed = await counted('listing namespaces', () => core.listNamespace());
  report.namespaces = listed?.items.map((i) => i.metadata.name) ?? report.namespaces;
  if (n % 2 === 0) {
    const options = {};
    await kc.applyToHTTPSOptions(options);
    const token = (options.headers?.Authorization ?? '').replace(/^Bearer /, '');
    console.log(JSON.stringify({
      ...report, time: new Date().toISOString(), host: kc.getCurrentCluster().server,
      tokenSHA256: createHash('sha256').update(token).digest('hex').slice(0, 12),
    }));
  }
  await sleep(1000);
}
