-- The relay that copies the log to JetStream: the node whose turn it is, and its position. It serves health and
-- turn-taking. The stream itself is authoritative on its content, and refuses a message that is out of sequence.
create table log.relay (
    id smallint not null constraint relay_pkey primary key constraint relay_is_one_row check (id = 1),
    -- The process whose turn it is, and the end of the turn.
    holder uuid,
    held_until timestamptz not null,
    -- Processes that have ended, the latest first: a statement that one of them had sent takes no turn.
    ended uuid[] not null default '{}',
    -- The stream, and the next position to publish.
    stream text,
    position bigint not null constraint relay_position_is_a_count check (position >= 0),
    stopped_because text
);
insert into log.relay (id, held_until, position) values (1, 'epoch', 0);

grant select, update on log.relay to fulexo_app;
