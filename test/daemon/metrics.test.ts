import t from 'tap';
import { createMetrics } from '../../src/daemon/metrics.ts';

t.test('counters and gauges are read at the scrape, with and without labels', async (t) => {
  let frames = 1;
  let flows = [{ labels: { protocol: 'tcp' }, value: 2 }];
  const registry = createMetrics([
    {
      metrics: [
        { name: 'isthmus_link_frames_total', help: 'Frames.', type: 'counter', read: () => frames },
        { name: 'isthmus_stack_flows', help: 'Flows.', type: 'gauge', labels: ['protocol'], read: () => flows },
        { name: 'isthmus_slab_used_bytes', help: 'Bytes.', type: 'gauge', read: () => 4096 },
        {
          name: 'isthmus_stack_drops_total',
          help: 'Drops.',
          type: 'counter',
          labels: ['reason'],
          read: () => [{ labels: { reason: 'bad "quote"' }, value: 3 }],
        },
      ],
    },
  ]);
  const first = await registry.metrics();
  t.match(first, /^isthmus_link_frames_total 1$/m);
  t.match(first, /^isthmus_stack_flows\{protocol="tcp"\} 2$/m);
  t.match(first, /^isthmus_slab_used_bytes 4096$/m);
  t.match(first, /^isthmus_stack_drops_total\{reason="bad \\"quote\\""\} 3$/m);
  t.match(first, /^# TYPE isthmus_link_frames_total counter$/m);
  t.match(first, /^process_resident_memory_bytes \d+/m);
  frames = 7;
  flows = [{ labels: { protocol: 'udp' }, value: 1 }];
  const second = await registry.metrics();
  t.match(second, /^isthmus_link_frames_total 7$/m, 'not 1 + 7');
  t.notMatch(second, /protocol="tcp"/, 'labels that are gone are gone');
  t.match(second, /^isthmus_stack_flows\{protocol="udp"\} 1$/m);
});

t.test('names that break the rules are our own mistake', (t) => {
  const create = (name: string, type: 'counter' | 'gauge') => () =>
    createMetrics([{ metrics: [{ name, help: 'x', type, read: () => 0 }] }]);
  t.throws(create('frames_total', 'counter'), { name: 'InvariantError' });
  t.throws(create('isthmus_link_frames', 'counter'), { name: 'InvariantError' });
  t.throws(create('isthmus_link_frames_total', 'gauge'), { name: 'InvariantError' });
  t.end();
});
