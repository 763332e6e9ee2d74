-- The tree over the log (RFC 6962, section 2.1), in tiles of 256 hashes (C2SP tlog-tiles). It follows the log, and can be
-- derived from it again; that nobody rewrites both is what the signer sees to, which keeps its memory elsewhere.
create schema tree;
grant usage on schema tree to fulexo_app;

-- Level 0 has full tiles alone, since the log has the hashes of the other leaves. A tile above grows; what it holds never
-- changes.
create table tree.tile (
    level smallint not null constraint tile_level check (level between 0 and 7),
    index bigint not null constraint tile_index check (index >= 0),
    hashes bytea not null
        constraint tile_hashes check (octet_length(hashes) between 32 and 8192 and octet_length(hashes) % 32 = 0),
    constraint tile_pkey primary key (level, index),
    constraint tile_of_leaves_is_full check (level > 0 or octet_length(hashes) = 8192)
);
-- Hashes do not compress.
alter table tree.tile alter column hashes set storage external;

-- Every leaf below this position is in the tiles.
create table tree.head (
    id smallint not null constraint head_pkey primary key constraint head_is_one_row check (id = 1),
    size bigint not null constraint head_size_is_a_count check (size >= 0),
    -- The reason why the tree stopped: it never skips a leaf that it cannot verify.
    stopped_because text
);
insert into tree.head (id, size) values (1, 0);

grant select, insert, update on tree.tile to fulexo_app;
grant select, update on tree.head to fulexo_app;

-- The checkpoint that is published, a signed note (C2SP tlog-checkpoint). Whoever publishes the next one locks the row.
create table tree.checkpoint (
    id smallint not null constraint checkpoint_pkey primary key constraint checkpoint_is_one_row check (id = 1),
    -- The number of leaves that the note vouches for; 0 before the first one.
    size bigint not null constraint checkpoint_size_is_a_count check (size >= 0),
    note text,
    -- The public key of the log (a vkey), for whoever asks; those who verify have it from elsewhere.
    vkey text,
    published_at timestamptz,
    -- The reason why the signer does not sign the tree as it is.
    refused_because text,
    -- The refusals that the log does not tell of yet: the reason of the last one, the time of the first one, and the time since
    -- which the signer signs again.
    refusal text,
    refused_since timestamptz,
    resumed_at timestamptz,
    constraint refusal_is_whole check (num_nulls(refusal, refused_since) in (0, 2)),
    constraint checkpoint_is_whole check (num_nulls(note, vkey, published_at) in (0, 3))
);
insert into tree.checkpoint (id, size) values (1, 0);

grant select, update on tree.checkpoint to fulexo_app;

-- The newest checkpoint that enough witnesses have cosigned. Nodes take turns in asking the witnesses: each round belongs to
-- the node that moved `next_round_at`.
create table tree.anchor (
    id smallint not null constraint anchor_pkey primary key constraint anchor_is_one_row check (id = 1),
    -- The number of leaves that the note vouches for; 0 before the first one.
    size bigint not null constraint anchor_size_is_a_count check (size >= 0),
    note text,
    anchored_at timestamptz,
    next_round_at timestamptz not null,
    constraint anchor_is_whole check (num_nulls(note, anchored_at) in (0, 2))
);
insert into tree.anchor (id, size, next_round_at) values (1, 0, now());

grant select, update on tree.anchor to fulexo_app;

-- The witnesses, as the last round found them. One that the policy no longer names keeps its row.
create table tree.witness (
    -- The name in the policy.
    name text not null constraint witness_pkey primary key,
    -- The size of the checkpoint that it cosigned last.
    size bigint not null constraint witness_size_is_a_count check (size >= 0),
    cosigned_at timestamptz,
    -- The reason why it did not cosign in the last round.
    failure text,
    -- The witness has seen a larger tree of this log, or another one.
    is_contradiction boolean not null,
    constraint contradiction_has_a_reason check (failure is not null or not is_contradiction)
);

grant select, insert, update on tree.witness to fulexo_app;
