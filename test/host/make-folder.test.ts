import { chmodSync, lstatSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { makeFolder } from '../../src/host/make-folder.ts';

t.test('makes what is missing, with its mode, and nothing twice', (t) => {
  const root = t.testdir({ there: {} });
  const deep = join(root, 'a', 'b', 'c');
  makeFolder(deep, 0o700);
  makeFolder(deep, 0o700);
  for (const path of [join(root, 'a'), join(root, 'a', 'b'), deep]) t.equal(lstatSync(path).mode & 0o777, 0o700, path);
  chmodSync(join(root, 'there'), 0o755);
  makeFolder(join(root, 'there', 'x'), 0o700);
  t.equal(lstatSync(join(root, 'there')).mode & 0o777, 0o755, 'what was there is left as it is');
  symlinkSync(join(root, 'there'), join(root, 'link'));
  makeFolder(join(root, 'link', 'y'));
  t.ok(lstatSync(join(root, 'there', 'y')).isDirectory(), 'through a link');
  makeFolder('/');
  t.end();
});

t.test('says why where it cannot, and comes back', { skip: process.platform !== 'linux' && 'needs /proc' }, (t) => {
  const root = t.testdir({});
  writeFileSync(join(root, 'file'), '');
  t.throws(() => makeFolder(join(root, 'file')), { code: 'EEXIST' });
  t.throws(() => makeFolder(join(root, 'file', 'x', 'y')), { code: 'ENOTDIR' });
  symlinkSync(join(root, 'nowhere'), join(root, 'dangling'));
  t.throws(() => makeFolder(join(root, 'dangling', 'x')), { code: 'ENOENT' });
  // With `recursive: true` this never ended.
  t.throws(() => makeFolder('/proc/nope/x'), { code: 'ENOENT' });
  t.throws(() => makeFolder(`/tmp/${'x'.repeat(300)}`), { code: 'ENAMETOOLONG' });
  t.end();
});
