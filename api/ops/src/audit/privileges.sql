-- Everything in our schemas as lines of text: privileges of others than the owner, owners, functions with their bodies'
-- digests, triggers. Reads catalogs alone, and takes no lock of ours.
with owner (id) as (select nspowner from pg_namespace where nspname = 'log'),
ours as (
    select oid, nspname::text as name, nspowner, nspacl from pg_namespace
    where nspname in ('public', 'log', 'vault', 'access', 'read', 'read_next', 'read_previous', 'read_aside', 'projection',
                      'tree')
),
relation as (
    select c.oid, s.name || '.' || c.relname as name, c.relowner, c.relacl,
           case c.relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end as kind
    from pg_class c join ours s on s.oid = c.relnamespace where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
),
routine as (
    select p.oid, s.name || '.' || p.proname as name, p.proowner, p.proacl, p.prosecdef, p.proconfig, p.prosrc
    from pg_proc p join ours s on s.oid = p.pronamespace
),
item as (
    select null as relation, 'schema ' || name as name, nspowner as owner,
           coalesce(nspacl, acldefault('n', nspowner)) as acl
    from ours
    union all
    select case kind when 'table' then name end, kind || ' ' || name, relowner,
           coalesce(relacl, acldefault((case kind when 'sequence' then 's' else 'r' end)::"char", relowner))
    from relation
    union all
    select case r.kind when 'table' then r.name end, 'column ' || r.name || '.' || a.attname, r.relowner, a.attacl
    from relation r join pg_attribute a on a.attrelid = r.oid
    where a.attacl is not null and not a.attisdropped
    union all
    select null, 'function ' || name, proowner, coalesce(proacl, acldefault('f', proowner)) from routine
)
select i.relation, 'grant ' || a.privilege_type || ' on ' || i.name || ' to '
       || case when a.grantee = 0 then 'PUBLIC'
               when a.grantee = (select id from owner) then 'the owner'
               else pg_get_userbyid(a.grantee)::text end
       || case when a.is_grantable then ' with grant option' else '' end as line
from item i cross join lateral aclexplode(i.acl) a where a.grantee <> i.owner
union
select i.relation, 'owner of ' || i.name || ': '
       || case when i.owner = (select id from owner) then 'the owner' else pg_get_userbyid(i.owner)::text end
from item i where i.name not like 'column %' and i.name <> 'schema public'
union
select null, 'function ' || name || ': ' || case when prosecdef then 'as its owner, ' else '' end
       || coalesce(array_to_string(proconfig, ', ') || ', ', '')
       || 'body ' || encode(substr(sha256(convert_to(prosrc, 'UTF8')), 1, 8), 'hex')
from routine
union
select case r.kind when 'table' then r.name end,
       'trigger ' || t.tgname || ' on ' || r.name || ': enabled ' || t.tgenabled::text || ', type ' || t.tgtype || ', calls '
       || n.nspname || '.' || p.proname
from pg_trigger t join relation r on r.oid = t.tgrelid join pg_proc p on p.oid = t.tgfoid
join pg_namespace n on n.oid = p.pronamespace where not t.tgisinternal
order by 2
