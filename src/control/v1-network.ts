// `/v1/flows`, `/v1/vms`, `/v1/leases`, `/v1/policy`, `/v1/stats`: what the network is doing now, and the few things that can be done
// about it.

import { ApiError } from './api-error.ts';
import { type AnyRoute, route, shown } from './api-route.ts';
import type { ApiSource, FlowFilter } from './resources.ts';
import {
  type AddressParams,
  addressParams,
  flowQuery,
  type IdParams,
  idParams,
  type VmParams,
  type VmPatch,
  vmParams,
  vmPatch,
} from './schemas.ts';
import { flowPage, leaseList, policyAnswer, statsAnswer, vmAnswer, vmList } from './schemas-answers.ts';

export function networkRoutes(source: ApiSource): AnyRoute[] {
  return [...flowRoutes(source), ...vmRoutes(source), ...leaseRoutes(source), ...lookRoutes(source)];
}

function flowRoutes(source: ApiSource): AnyRoute[] {
  return [
    route<undefined, FlowFilter>({
      method: 'get',
      path: '/flows',
      tag: 'flows',
      summary: 'Lists flows with live counters; a page of those that every filter takes',
      query: flowQuery,
      answers: { 200: { description: 'A page of flows', schema: flowPage } },
      run: ({ query }) => ({ status: 200, body: source.flows(query) }),
    }),
    route<IdParams>({
      method: 'delete',
      path: '/flows/:id',
      tag: 'flows',
      summary: 'Ends a flow at once: both ends of a TCP flow are reset',
      params: idParams,
      errors: { ERR_FLOW_NOT_FOUND: '404: there is no such flow, or no more' },
      answers: { 204: { description: 'It has ended' } },
      run: ({ params }) => {
        if (!source.killFlow(params.id))
          throw new ApiError(404, 'ERR_FLOW_NOT_FOUND', `there is no flow ${shown(params.id)}`, 'path.id');
        return { status: 204 };
      },
    }),
  ];
}

function vmNotFound(id: number): ApiError {
  return new ApiError(404, 'ERR_VM_NOT_FOUND', `there is no VM ${id}`, 'path.id');
}

const VM_ERRORS = { ERR_VM_NOT_FOUND: '404: there is no such VM, or no more' } as const;

function vmRoutes(source: ApiSource): AnyRoute[] {
  return [
    route({
      method: 'get',
      path: '/vms',
      tag: 'vms',
      summary: 'Lists the VMs that are connected',
      answers: { 200: { description: 'The VMs', schema: vmList } },
      run: () => ({ status: 200, body: { vms: source.vms() } }),
    }),
    route<VmParams>({
      method: 'get',
      path: '/vms/:id',
      tag: 'vms',
      summary: 'One VM',
      params: vmParams,
      errors: VM_ERRORS,
      answers: { 200: { description: 'The VM', schema: vmAnswer } },
      run: ({ params }) => {
        const vm = source.vms().find((one) => one.id === params.id);
        if (vm === undefined) throw vmNotFound(params.id);
        return { status: 200, body: vm };
      },
    }),
    route<VmParams, undefined, VmPatch>({
      method: 'patch',
      path: '/vms/:id',
      tag: 'vms',
      summary: 'Cuts a VM off from the others, or lets it reach them again',
      params: vmParams,
      body: vmPatch,
      errors: VM_ERRORS,
      answers: { 200: { description: 'The VM as it is now', schema: vmAnswer } },
      run: ({ params, body }) => {
        const vm = source.isolateVm(params.id, body.isolated);
        if (vm === undefined) throw vmNotFound(params.id);
        return { status: 200, body: vm };
      },
    }),
    route<VmParams>({
      method: 'delete',
      path: '/vms/:id',
      tag: 'vms',
      summary: 'Closes the link of a VM; it may connect again',
      params: vmParams,
      errors: VM_ERRORS,
      answers: { 204: { description: 'It is disconnected' } },
      run: ({ params }) => {
        if (!source.disconnectVm(params.id)) throw vmNotFound(params.id);
        return { status: 204 };
      },
    }),
  ];
}

function leaseRoutes(source: ApiSource): AnyRoute[] {
  return [
    route({
      method: 'get',
      path: '/leases',
      tag: 'leases',
      summary: 'Lists DHCP leases, those of clients that have gone too',
      answers: { 200: { description: 'The leases', schema: leaseList } },
      run: () => ({ status: 200, body: { leases: source.leases() } }),
    }),
    route<AddressParams>({
      method: 'delete',
      path: '/leases/:address',
      tag: 'leases',
      summary: 'Forgets a lease that nobody uses, so that its address is free for others',
      params: addressParams,
      errors: {
        ERR_LEASE_NOT_FOUND: '404: there is no lease of this address',
        ERR_LEASE_IN_USE: '409: it is active, or fixed by --lease',
      },
      answers: { 204: { description: 'It is forgotten' } },
      run: ({ params }) => {
        const { address } = params;
        const result = source.removeLease(address);
        if (result === 'unknown')
          throw new ApiError(404, 'ERR_LEASE_NOT_FOUND', `there is no lease of ${address}`, 'path.address');
        if (result === 'in-use')
          throw new ApiError(
            409,
            'ERR_LEASE_IN_USE',
            `the lease of ${address} is active, or fixed by --lease`,
            'path.address',
          );
        return { status: 204 };
      },
    }),
  ];
}

function lookRoutes(source: ApiSource): AnyRoute[] {
  return [
    route({
      method: 'get',
      path: '/policy',
      tag: 'policy',
      summary: 'What guests reach and what forwards may do: the policy in force',
      answers: { 200: { description: 'The policy', schema: policyAnswer } },
      run: () => ({ status: 200, body: source.policy() }),
    }),
    route({
      method: 'get',
      path: '/stats',
      tag: 'stats',
      summary: 'The counters of /metrics as JSON, with the memory of the process',
      answers: { 200: { description: 'The counters', schema: statsAnswer } },
      run: () => {
        const { rss, heapUsed, external } = process.memoryUsage();
        return {
          status: 200,
          body: {
            version: source.version,
            pid: process.pid,
            uptimeSeconds: Math.round(process.uptime() * 10) / 10,
            memoryBytes: { rss, heapUsed, external },
            metrics: source.stats(),
          },
        };
      },
    }),
  ];
}
