// The stream: the published events, as a consumer of RabbitMQ's official client for Node.js hands them over.

import { Offset, connect } from 'rabbitmq-stream-js-client';
import { kept } from './events.mjs';

// So many events may wait until they are taken; beyond that the broker is not asked for more.
const WAITING = 4000;
const STORE_MILLISECONDS = 1000;

/** Read a stream from its beginning, as `group`; an endless iterator of batches of at most `size`. */
export async function read({ hostname, port, username, password, vhost, stream }, group, size) {
  const client = await connect({ hostname, port, username, password, vhost });
  const waiting = [];
  let wakeReader = () => {};
  let wakeTaker = () => {};

  function take(message) {
    const id = message.messageProperties.messageId;
    const key = message.messageAnnotations?.['x-routing-key'] ?? message.messageProperties.subject;
    waiting.push({ offset: Number(message.offset), changed: kept(id, key, JSON.parse(message.content)) });
    wakeTaker();
    if (waiting.length >= WAITING) return new Promise((resolve) => { wakeReader = resolve; });
    return undefined;
  }

  const consumer = await client.declareConsumer({ stream, offset: Offset.first(), consumerRef: group }, take);
  setInterval(() => consumer.storeOffset().catch(() => {}), STORE_MILLISECONDS).unref();

  async function* batches() {
    for (;;) {
      while (waiting.length === 0) await new Promise((resolve) => { wakeTaker = resolve; });
      const batch = waiting.splice(0, size);
      if (waiting.length < WAITING) wakeReader();
      yield batch;
    }
  }
  return batches();
}
