// The commands that ask a running daemon, by name: all that the command line knows of them before one is called. What they do, and their
// options, is client-commands, which is loaded then.

/** Each command with its line in --help. */
export const CLIENT_COMMANDS = {
  publish: 'publish a port of a VM on the host',
  unpublish: 'withdraw a published port',
  ports: 'list forwards',
  vms: 'list VMs, disconnect or isolate one',
  flows: 'list flows with their counters, or end one',
  leases: 'list DHCP leases, or forget one',
  dns: 'add, remove or list names that VMs can resolve',
  events: 'follow what happens',
  capture: 'write a live capture as pcapng',
  status: 'tell how the daemon is',
  stop: 'end the daemon, at once or when flows have ended',
  openapi: 'print the OpenAPI document of the control API',
  completion: 'print a completion script for bash, zsh or fish',
} as const;
export type ClientCommandName = keyof typeof CLIENT_COMMANDS;

export function isClientCommand(word: string): word is ClientCommandName {
  return Object.hasOwn(CLIENT_COMMANDS, word);
}
