-- Who copies the log to JetStream, and how far that node has got. For health and for taking turns: what the stream holds,
-- the stream itself says, and it refuses whoever is out of step.
create table log.relay (
    id smallint not null constraint relay_pkey primary key constraint relay_is_one_row check (id = 1),
    -- The node's process whose turn it is, and until when.
    holder uuid,
    held_until timestamptz not null,
    -- Processes that have ended, the latest first: a statement that one of them left on its way takes no turn.
    ended uuid[] not null default '{}',
    -- The stream, and the next position to publish.
    stream text,
    position bigint not null constraint relay_position_is_a_count check (position >= 0),
    stopped_because text
);
insert into log.relay (id, held_until, position) values (1, 'epoch', 0);

grant select, update on log.relay to fulexo_app;
