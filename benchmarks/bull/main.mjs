// One process of Bull's side: `node main.mjs '{…}'`; it reads events from a stream, or makes those that its input asks
// for by a line `SUBMIT first count`.

import { createInterface } from 'node:readline';
import Bull from 'bull';
import pg from 'pg';
import { made } from './events.mjs';
import { BATCH, JOB, QUEUE, processor, trigger } from './service.mjs';

const settings = JSON.parse(process.argv[2]);

const pool = new pg.Pool({ connectionString: settings.database, max: settings.connections, idleTimeoutMillis: 0 });
const queue = new Bull(QUEUE, settings.redis, {
  prefix: settings.prefix,
  defaultJobOptions: {
    attempts: 6, // the first try and five retries: after 2, 4, 8, 16 and 32 s
    backoff: { type: 'exponential', delay: 2000 },
    removeOnComplete: 100,
    removeOnFail: 1000,
  },
});

function giveUp(error) {
  console.error(error);
  process.exit(1);
}

queue.on('error', giveUp);
queue.on('failed', (job, error) => giveUp(error)); // nothing here may fail: a retry would spoil the figures
if (settings.worker) queue.process(JOB, settings.concurrency, processor(pool)).catch(giveUp);
await queue.isReady();
await pool.query('SELECT 1');
if (settings.producer && settings.broker) {
  const { read } = await import('./stream.mjs');
  trigger(pool, queue, await read(settings.broker, settings.prefix, BATCH)).catch(giveUp);
}
console.log('READY');

if (settings.producer && !settings.broker) {
  for await (const line of createInterface({ input: process.stdin })) {
    const [, first, count] = line.split(' ');
    await trigger(pool, queue, made(Number(first), Number(count), BATCH)).catch(giveUp);
    console.log('SUBMITTED');
  }
} else {
  for await (const _ of process.stdin); // until it is closed
}
await queue.close();
await pool.end();
process.exit(0); // a stream that is read has no end
