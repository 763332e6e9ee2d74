-- The state of the service as its database has it, as one JSON object, from one snapshot. Takes no lock but those of reads.
with clock as (
    -- That of the snapshot: what is computed later is no older for it.
    select statement_timestamp() as now
), positions as (
    select 'read_model ' || name as what, position from projection.checkpoint
    union all select 'relay', position from log.relay
    union all select 'tree', size from tree.head
    union all select 'checkpoint', size from tree.checkpoint
    union all select 'anchor', size from tree.anchor
), waits as (
    -- The seconds for which the first event that is not covered has waited. Where its time is not known yet, those of the
    -- newest event, which has waited for less.
    select p.what,
           extract(epoch from c.now - coalesce(
               (select a.recorded_at from read.audit a where a.position = p.position), h.recorded_at))::float8 as seconds
    from positions p cross join log.head h cross join clock c
    where p.position < h.position
), sessions as (
    select coalesce(sum(numbackends), 0) as number from pg_stat_database where datname is not null
), transactions as (
    select max(extract(epoch from c.now - a.xact_start))::float8 as seconds
    from pg_stat_activity a cross join clock c
    where a.pid <> pg_backend_pid() and a.backend_type = 'client backend'
), recent_nodes as (
    select * from projection.node order by renewed_at desc limit 200
)
select jsonb_build_object(
    'head', (select jsonb_build_object('position', h.position, 'age', extract(epoch from c.now - h.recorded_at)::float8)
             from log.head h cross join clock c),
    'nodes', (select coalesce(jsonb_agg(jsonb_build_object(
                         'name', n.name, 'applied', n.applied, 'renewals', n.renewals,
                         'silent', extract(epoch from c.now - n.renewed_at)::float8)
                     order by n.name, n.renewed_at desc), '[]')
              from recent_nodes n cross join clock c),
    'read_models', (select coalesce(jsonb_agg(jsonb_build_object(
                               'name', p.name, 'version', p.version, 'position', p.position,
                               'stopped_because', p.stopped_because) order by p.name), '[]')
                    from projection.checkpoint p),
    'relay', (select jsonb_build_object('is_used', r.holder is not null, 'has_turn', r.held_until > c.now,
                                        'position', r.position, 'stopped_because', r.stopped_because)
              from log.relay r cross join clock c),
    'tree', (select jsonb_build_object('size', size, 'stopped_because', stopped_because) from tree.head),
    'checkpoint', (select jsonb_build_object('size', size, 'note', note, 'vkey', vkey, 'refused_because', refused_because)
                   from tree.checkpoint),
    'anchor', (select jsonb_build_object('size', size, 'note', note) from tree.anchor),
    'witnesses', (select coalesce(jsonb_agg(jsonb_build_object(
                             'name', w.name, 'failure', w.failure, 'is_contradiction', w.is_contradiction)
                         order by w.name), '[]')
                  from (select * from tree.witness order by name limit 256) w),
    'waits', (select coalesce(jsonb_object_agg(what, seconds), '{}') from waits),
    'keys', (select coalesce(jsonb_agg(jsonb_build_object(
                        'kind', k.kind, 'id', k.key_id,
                        'in_use', extract(epoch from c.now - k.first_used_at)::float8,
                        'replaced', extract(epoch from c.now - k.replaced_at)::float8)
                    order by k.kind, k.key_id), '[]')
             from (select * from vault.key_epoch where destroyed_at is null order by kind, key_id limit 1000) k
             cross join clock c),
    'lockdown', (select jsonb_build_object('scope', l.scope, 'age', extract(epoch from c.now - l.changed_at)::float8)
                 from access.lockdown l cross join clock c where l.scope is not null),
    'incidents', (select coalesce(jsonb_object_agg(i.severity, i.number), '{}')
                  from (select severity, count(*) as number from read.incident where phase <> 'closed' group by severity) i),
    'load', (select jsonb_build_object(
                 'sessions', s.number,
                 'most_sessions', current_setting('max_connections')::bigint
                                  - current_setting('superuser_reserved_connections')::bigint
                                  - coalesce(current_setting('reserved_connections', true), '0')::bigint,
                 'longest_transaction', t.seconds,
                 'sees_all_sessions', pg_has_role(current_user, 'pg_read_all_stats', 'usage'),
                 'bytes', pg_database_size(current_database()))
             from sessions s cross join transactions t)
)::text as state
