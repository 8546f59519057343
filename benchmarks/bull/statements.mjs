// The SQL: one statement for a batch of events, and one for all that a job leaves; each is a transaction of its own.

// An event's rows: its entity's upsert, its execution, and the audit row of that. An event that comes again adds none.
export const TRIGGER = `
WITH event AS (
  SELECT * FROM jsonb_to_recordset($1::jsonb) AS event(
    execution_id text, id text, entity_type text, entity_id text, actor_id text, status text, data jsonb, event jsonb,
    "offset" bigint, changed_at bigint
  )
), entity AS (
  INSERT INTO entities (
    entity_type, entity_id, version, status, status_event, status_at, data, event_id, changed_at, created_at, updated_at
  )
  SELECT entity_type, entity_id, 1, status, id, changed_at, data, id, changed_at, now(), now() FROM event
  ON CONFLICT (entity_type, entity_id) DO UPDATE SET
    version = entities.version + 1, status = excluded.status, status_event = excluded.status_event,
    status_at = excluded.status_at, data = entities.data || excluded.data,
    event_id = excluded.event_id, changed_at = excluded.changed_at, updated_at = excluded.updated_at
  WHERE excluded.changed_at >= entities.changed_at
), execution AS (
  INSERT INTO workflow_executions (
    id, workflow, definition_id, entity_type, entity_id, actor_id, trigger, stage, queue, status, phase, position,
    actions, event_id, event, event_offset, event_time, causation, created_at, updated_at
  )
  SELECT execution_id, $2::text, $3::text, entity_type, entity_id, actor_id, 'on_create', 'governance', $4::text,
    'in_progress', 'queued', 0, 2, id, event, "offset", changed_at,
    jsonb_build_array(jsonb_build_object(
      'workflow', $2::text, 'entity', entity_type || '/' || entity_id, 'execution_id', execution_id
    )), now(), now()
  FROM event
  ON CONFLICT (id) DO NOTHING
  RETURNING id, entity_type, entity_id, actor_id, event_id, event
)
INSERT INTO audit_logs (
  action, entity_type, entity_id, user_id, metadata, event_id, routing_key, source, route, occurred_at, created_at
)
SELECT 'execution_queued', entity_type, entity_id, actor_id,
  jsonb_build_object(
    'execution_id', id, 'workflow', $2::text, 'definition_id', $3::text, 'trigger', 'on_create', 'queue', $4::text
  ), event_id, event->>'routing_key', event->>'source', event->>'route', now(), now()
FROM execution`;

// All that running an execution leaves, if nobody has run it yet: a job that comes twice changes nothing.
export const EXECUTE = `
WITH execution AS (
  UPDATE workflow_executions
  SET status = 'completed', phase = NULL, position = 2, started_at = $2::timestamptz, updated_at = now(),
    completed_at = now()
  WHERE id = $1::text AND status = 'in_progress'
  RETURNING id, workflow, entity_type, entity_id, actor_id, event_id, event
), action AS (
  INSERT INTO workflow_actions (
    execution_id, position, action, status, round, attempts, failures, history, started_at, ended_at, result
  )
  SELECT id, done.position, done.action, 'completed', 0, 1, 0, '[]', $2::timestamptz, now(), done.result
  FROM execution, (VALUES
    (0, 'create_task', jsonb_build_object('key', $1::text || '/0', 'assignee', $4::text, 'due_at', NULL)),
    (1, 'notify', jsonb_build_object('channel', 'in_app', 'recipients', jsonb_build_array($5::text)))
  ) AS done(position, action, result)
), task AS (
  INSERT INTO tasks (
    key, execution_id, entity_type, entity_id, title, assignee, priority, status, created_at
  )
  SELECT id || '/0', id, entity_type, entity_id, $3::text, $4::text, 'normal', 'open', now() FROM execution
), notification AS (
  INSERT INTO notifications (
    key, execution_id, entity_type, entity_id, channel, recipient, message, status, created_at
  )
  SELECT id || '/1', id, entity_type, entity_id, 'in_app', $5::text, $6::text, 'unread', now() FROM execution
)
INSERT INTO audit_logs (
  action, entity_type, entity_id, user_id, metadata, event_id, routing_key, source, route, occurred_at, created_at
)
SELECT change.action, entity_type, entity_id, actor_id,
  jsonb_build_object('execution_id', id, 'workflow', workflow) || change.details, event_id,
  event->>'routing_key', event->>'source', event->>'route', now(), now()
FROM execution, (VALUES
  ('execution_running', '{}'::jsonb),
  ('action_completed', '{"position": 0, "action": "create_task", "attempt": 1}'),
  ('action_completed', '{"position": 1, "action": "notify", "attempt": 1}'),
  ('execution_completed', '{}')
) AS change(action, details)`;
