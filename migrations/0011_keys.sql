-- The lives of keys. The keys themselves are in files and in the environment, never here: a database, its old pages and its
-- backups open nothing once the key that wrapped is gone.
--
-- Locks: rewrites vault.subject_key, which nobody reads or writes meanwhile.

create table vault.key_epoch (
    kind text not null constraint key_epoch_kind_is_known check (kind in ('encryption', 'signing', 'log')),
    key_id text not null,
    -- Known to be coming. It is in use once every node has it.
    added_at timestamptz not null default clock_timestamp(),
    -- Every node has it. Who verifies what it signs learns of it from here on.
    held_at timestamptz,
    -- In use: it wraps, or signs.
    first_used_at timestamptz,
    -- Another one is in use.
    replaced_at timestamptz,
    -- Nothing needs it any more.
    retired_at timestamptz,
    -- No node has it.
    destroyed_at timestamptz,
    -- It leaked. Once another one is in use, no node accepts it, even if a file still has it.
    distrusted_at timestamptz,
    -- The id, as long as a row may name the key as the one that wraps it.
    wraps text generated always as (case when kind = 'encryption' and retired_at is null then key_id end) stored
        constraint key_epoch_wraps unique,
    constraint key_epoch_pkey primary key (kind, key_id),
    constraint key_epoch_is_in_order check (
        (first_used_at is not null or replaced_at is null)
        and (replaced_at is not null or retired_at is null)
        and (retired_at is not null or destroyed_at is null))
);
create unique index key_epoch_in_use on vault.key_epoch (kind) where first_used_at is not null and replaced_at is null;
grant select, insert, update on vault.key_epoch to fulexo_app;

-- Forgets a key that was never used: the file with it was lost before every node had it.
create function vault.forget_key(its_kind text, its_id text) returns boolean language sql security definer
set search_path = pg_catalog, pg_temp as $$
    with forgotten as (
        delete from vault.key_epoch where kind = its_kind and key_id = its_id and first_used_at is null returning 1)
    select exists (select from forgotten)
$$;
revoke all on function vault.forget_key from public;
grant execute on function vault.forget_key to fulexo_app;

-- The keys of databases from before this table: the one that wraps the service key is in use.
insert into vault.key_epoch (kind, key_id, first_used_at, replaced_at)
select 'encryption', kek_id, clock_timestamp(),
       case when kek_id not in (select kek_id from vault.service_key) then clock_timestamp() end
from (select kek_id from vault.service_key
      union select kek_id from vault.period_key
      union select kek_id from vault.subject_key where wrapped is not null) k;

-- No row is ever wrapped by a key that is retired, and no key is retired that still wraps a row: both sides are the database's
-- own. An erased person's row keeps the id of the key that wrapped it last.
alter table vault.subject_key
    add column wrapped_by text generated always as (case when wrapped is not null then kek_id end) stored,
    add constraint subject_key_is_wrapped_by_a_live_key foreign key (wrapped_by) references vault.key_epoch (wraps);
create index subject_key_wrapped_by on vault.subject_key (wrapped_by, subject_id) where wrapped_by is not null;
alter table vault.period_key
    add constraint period_key_is_wrapped_by_a_live_key foreign key (kek_id) references vault.key_epoch (wraps);
alter table vault.service_key
    add constraint service_key_is_wrapped_by_a_live_key foreign key (kek_id) references vault.key_epoch (wraps);

-- The keys that a node has and uses, as it announces them: no key, but a name with a check value.
alter table projection.node add column keys text[] not null default '{}';

-- Data of nobody in particular goes by its month.
create index sealed_period on log.sealed (period) where period is not null;
