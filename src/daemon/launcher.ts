#!/usr/bin/env node
// dist/daemon/main.js, the file that `isthmus` is in the package: starts program.js beside it through the code cache, which spares a start
// the compiling of half a megabyte. It must load nothing that a start does not need anyway (docs/adr/0016-start.md).

import { ProgramLoader } from './code-cache.ts';
import type * as program from './program.ts';

const loader = new ProgramLoader(import.meta.dirname, ['./program.js', './late.js'], require, process);
const { startProgram } = loader.load('./program.js') as typeof program;
startProgram(() => loader.saveCaches());
