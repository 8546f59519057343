// The workflow service: an event starts executions and queues their jobs; a job runs an execution's two actions.

import { executionId } from './events.mjs';
import { EXECUTE, TRIGGER } from './statements.mjs';

export const BATCH = 200;
export const QUEUE = 'governance:policy';
export const JOB = 'execute-workflow';
const WORKFLOW = 'policy-intake';
const DEFINITION = 'policy-intake@1';
// One batch's rows are written while the jobs of the one before are added.
const BATCHES_AT_ONCE = 2;

/** Trigger workflows for batches of events, two batches at once; ends with the batches. */
export async function trigger(pool, queue, batches) {
  async function lane() {
    for await (const events of batches) await checkAndTriggerWorkflows(pool, queue, events);
  }
  await Promise.all(Array.from({ length: BATCHES_AT_ONCE }, lane));
}

async function checkAndTriggerWorkflows(pool, queue, events) {
  const rows = [];
  const jobs = [];
  for (const { offset, changed } of events) {
    const { data } = changed;
    if (data.new.risk !== 'high' && data.new.risk !== 'critical') continue;
    const id = executionId(changed.id, WORKFLOW);
    rows.push({
      execution_id: id, id: changed.id, entity_type: data.entity_type, entity_id: data.entity_id,
      actor_id: data.actor_id, status: data.new.status, data: data.new, event: changed, offset, changed_at: Date.now(),
    });
    // The job brings all that its actions need: no job reads anything from the database.
    const job = { executionId: id, entityId: data.entity_id, title: data.new.title, owner: data.new.owner };
    jobs.push({ name: JOB, data: job, opts: { jobId: id } });
  }
  await pool.query({ name: 'trigger', text: TRIGGER, values: [JSON.stringify(rows), WORKFLOW, DEFINITION, QUEUE] });
  await queue.addBulk(jobs);
}

/** Bull's processor: both actions, what they leave, the audit rows and the execution's end, in one statement. */
export function processor(pool) {
  return async ({ data }) => {
    await pool.query({
      name: 'execute',
      text: EXECUTE,
      values: [
        data.executionId, new Date(), `Announce ${data.entityId}`, 'comms', data.owner,
        `${data.title} was created`,
      ],
    });
  };
}
