-- The nodes on this database: who may be judging requests from memory, and how far each has read the log.

-- A node's own row, written by it alone. Nothing is decided by the times: whoever watches goes by its own clock and by
-- whether `renewals` changed.
create table projection.node (
    -- Drawn at each start.
    node_id uuid not null constraint node_pkey primary key,
    name text not null,
    started_at timestamptz not null,
    -- How often its lease was renewed; before each lease the row is committed, and only then the log's head is read.
    renewals bigint not null,
    renewed_at timestamptz not null,
    -- Every event below it is enforced there.
    applied bigint not null
    -- Room for the next version of a row beside it: it changes several times a second, and is in no other index.
) with (fillfactor = 50);

grant select, insert, update, delete on projection.node to fulexo_app;
