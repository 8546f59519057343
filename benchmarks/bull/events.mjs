// The events: what `benchmarks/policies.py` publishes, made in memory, so that Bull's side reads them from no broker.

import { createHash } from 'node:crypto';

const ROUTING_KEY = 'governance.policy.created';

/** Event number `number`, in the form in which an execution keeps it. */
export function event(number) {
  const digits = String(number).padStart(8, '0');
  return {
    id: `event-${number}`,
    routing_key: ROUTING_KEY,
    headers: {},
    time: new Date().toISOString(),
    source: 'governance',
    stream: 'stream.platform.governance',
    route: ROUTING_KEY,
    data: {
      entity_type: 'policy',
      entity_id: `policy-${digits}`,
      actor_id: `user-${number % 100}`,
      old: {},
      new: {
        title: `Policy ${digits}`,
        status: 'draft',
        risk: 'high',
        owner: `owner-${number % 100}`,
        summary: 'Who may read what, who decides about it, and how long it is kept.',
      },
    },
  };
}

/** The execution of one workflow for one event: the same event always has the same. */
export function executionId(eventId, workflow) {
  const hex = createHash('sha1').update(`${eventId}\0${workflow}`).digest('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20, 32)].join('-');
}
