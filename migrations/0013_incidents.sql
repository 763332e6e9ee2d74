-- The read model of incidents, with its history (docs/adr/0012). Touches no table that may be large. A node of the previous
-- release does not apply its events, and does not answer questions about it.
create table read.incident (
    incident_id uuid not null,
    since bigint not null,
    opened_at timestamptz not null,
    -- The position at which the summary is sealed.
    opened_position bigint not null,
    opened_by uuid,
    opened_by_kind text not null,
    severity text not null,
    phase text not null,
    phase_at timestamptz not null,
    owner uuid,
    -- The position at which the lessons are sealed.
    closed_position bigint,
    -- The evidence: ids, positions, rules.
    accounts text[] not null,
    events text[] not null,
    findings text[] not null,
    sessions text[] not null,
    constraint incident_pkey primary key (incident_id)
);
-- Lists are in the order of ids, and so is each index of a filter.
create index incident_phase on read.incident (phase, incident_id);
create index incident_severity on read.incident (severity, incident_id);
create index incident_owner on read.incident (owner, incident_id) where owner is not null;
create table read.incident_past (
    like read.incident,
    until bigint not null,
    constraint incident_past_pkey primary key (incident_id, since)
);
grant select, insert, update, delete, truncate on read.incident, read.incident_past to fulexo_app;

insert into projection.checkpoint (name, position) values ('incidents', 0);
insert into projection.relation (projection, name, only_added_to) values
    ('incidents', 'incident', false),
    ('incidents', 'incident_past', true);
