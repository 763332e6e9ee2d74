-- The nodes on this database: those that may judge requests from memory, and how far each has applied the log.

-- A node's row, written by that node alone. Nothing is decided by its times: an observer goes by its own clock, and by
-- changes of `renewals`.
create table projection.node (
    -- Generated at each start.
    node_id uuid not null constraint node_pkey primary key,
    name text not null,
    started_at timestamptz not null,
    -- The number of renewals. Before each lease the row is committed, and only then the log's head is read.
    renewals bigint not null,
    renewed_at timestamptz not null,
    -- Every event below this position is enforced on the node.
    applied bigint not null
    -- Leaves room on the page for the next version of a row: it changes several times a second, and no changed column is indexed.
) with (fillfactor = 50);

grant select, insert, update, delete on projection.node to fulexo_app;
