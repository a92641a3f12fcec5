import t from 'tap';
import { DEFAULT_MTU, parseLinkUrl } from '../../src/link/link-url.ts';

t.test('what is a link', (t) => {
  t.match(parseLinkUrl('qemu:/run/vm.sock'), { format: 'qemu', place: { kind: 'path', path: '/run/vm.sock' } });
  t.match(parseLinkUrl('vpnkit:vm.sock'), { format: 'vpnkit', place: { kind: 'path', path: 'vm.sock' } });
  t.match(parseLinkUrl('qemu:/with space:and#x'), { place: { path: '/with space:and#x' } });
  t.match(parseLinkUrl('qemu:fd:3'), { text: 'qemu:fd:3', place: { kind: 'fd', fd: 3 } });
  t.match(parseLinkUrl('vpnkit:stdio'), { place: { kind: 'stdio' } });
  t.equal(DEFAULT_MTU.qemu, 65_520);
  t.equal(DEFAULT_MTU.vpnkit, 1500);
  t.end();
});

t.test('what is none is answered with what would be right', (t) => {
  const wrong: [string, RegExp][] = [
    ['', /names no kind of link; want qemu: or vpnkit:/],
    ['/run/vm.sock', /want qemu: or vpnkit:/],
    ['tap:/x', /"tap:\/x" names no kind of link/],
    ['qemu:', /no socket path/],
    ['qemu:fd:x', /want fd:N/],
    ['qemu:fd:1', /stdio for 0 and 1/],
    ['qemu:fd:-3', /want fd:N/],
    ['qemu:///run/x', /write qemu:\/run\/x/],
    ['qemu:/a\0b', /NUL/],
  ];
  for (const [text, why] of wrong) {
    const answer = parseLinkUrl(text);
    t.type(answer, 'string', String(why));
    t.match(answer, why, String(why));
  }
  t.end();
});
