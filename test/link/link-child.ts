// Run by inherited-fd.test: one listener on an inherited descriptor or stdio, which echoes frames. Says what happens on stderr.

import { LinkListener } from '../../src/link/listener.ts';
import { linkUrl, makeWorld } from './fake-host.ts';

const world = makeWorld();
world.host.echo = true;
const url = linkUrl(process.argv[2] ?? '');
const say = (text: string) => process.stderr.write(`${text}\n`);
// Until the only connection has ended, or SIGTERM.
const alive = setInterval(() => {}, 1000);
const listener = new LinkListener(
  {
    url,
    mtu: 65_520,
    onFinished: () => {
      say('finished');
      clearInterval(alive);
    },
  },
  world,
);
process.on('SIGTERM', () => {
  listener.close().then(
    () => clearInterval(alive),
    () => process.exit(1),
  );
});
try {
  await listener.listen();
  say('ready');
} catch (error) {
  clearInterval(alive);
  say(`error ${String(error)}`);
}
