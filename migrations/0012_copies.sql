-- Those who took copies of events through the API: exports, streams, entries of the log. A person who is erased learns who may
-- have theirs.
create table log.copy_holder (
    kind text not null constraint copy_holder_kind_is_known check (kind in ('account', 'api_key')),
    holder_id uuid not null,
    -- The last event that is in a copy; null if one goes on as the log grows.
    last_position bigint,
    copies bigint not null,
    last_at timestamptz not null,
    constraint copy_holder_pkey primary key (kind, holder_id)
);
grant select, insert, update on log.copy_holder to fulexo_app;
