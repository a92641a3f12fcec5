#!/usr/bin/env node
// The entry of the `isthmus` command where it runs from its modules. In the package it is launcher.ts.

import { startProgram } from './program.ts';

await startProgram();
