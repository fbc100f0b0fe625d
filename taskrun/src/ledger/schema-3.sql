-- The third schema: who held a task to its share of processors. A migration that was released is never changed; write the
-- next one.
ALTER TABLE task ADD COLUMN cpu_enforcement TEXT;

CREATE TRIGGER task_enforcement_stays BEFORE UPDATE OF cpu_enforcement ON task WHEN OLD.stopped_at IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'the task has an end already');
END;
