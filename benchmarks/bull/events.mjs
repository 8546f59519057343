// The events: what `benchmarks/policies.py` publishes, made in memory, or read from the stream that it publishes to.

import { createHash } from 'node:crypto';

const ROUTING_KEY = 'governance.policy.created';

/** Batches of the events from number `first` on, at most `size` in each. */
export function* made(first, count, size) {
  for (let begin = first; begin < first + count; begin += size) {
    const length = Math.min(size, first + count - begin);
    yield Array.from({ length }, (_, index) => ({ offset: begin + index, changed: event(begin + index) }));
  }
}

function event(number) {
  const digits = String(number).padStart(8, '0');
  return kept(`event-${number}`, ROUTING_KEY, {
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
  });
}

/** An event in the form in which an execution keeps it. */
export function kept(id, routingKey, data) {
  return {
    id,
    routing_key: routingKey,
    headers: {},
    time: new Date().toISOString(),
    source: 'governance',
    stream: 'stream.platform.governance',
    route: routingKey,
    data,
  };
}

/** The execution of one workflow for one event: the same event always has the same. */
export function executionId(eventId, workflow) {
  const hex = createHash('sha1').update(`${eventId}\0${workflow}`).digest('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20, 32)].join('-');
}
