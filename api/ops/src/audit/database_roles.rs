//! The database roles: what the application's role could do beyond what the service does.

use sqlx::{FromRow, PgConnection};

use super::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};
use crate::report::Check;

const REFERENCE: &str = "docs/production.md#set-up-the-database-and-the-first-node";

const SUPERUSER: Rule = Rule {
    id: "database_roles.superuser",
    title: "the application is a superuser",
    severity: Severity::Critical,
    remedy: "Run `alter role ROLE nosuperuser` as another superuser.",
    reference: REFERENCE,
};
const ATTRIBUTE: Rule = Rule {
    id: "database_roles.attribute",
    title: "a role of the service has an attribute that it does not need",
    severity: Severity::High,
    remedy: "Run `alter role ROLE nocreaterole nocreatedb noreplication nobypassrls` as a superuser.",
    reference: REFERENCE,
};
const OWNER: Rule = Rule {
    id: "database_roles.owner",
    title: "the application can act as the owner of the log",
    severity: Severity::Critical,
    remedy: "Give the application a role of its own, and run `fulexo migrate` with it in DATABASE_URL.",
    reference: REFERENCE,
};
const MEMBERSHIP: Rule = Rule {
    id: "database_roles.membership",
    title: "the application is a member of a role other than fulexo_app",
    severity: Severity::High,
    remedy: "Revoke the membership: `revoke OTHER from ROLE`.",
    reference: REFERENCE,
};
const SEQUENCER: Rule = Rule {
    id: "database_roles.sequencer",
    title: "a role can act as the sequencer, and so write the log past its functions",
    severity: Severity::Critical,
    remedy: "Revoke the membership: `revoke fulexo_sequencer from ROLE`.",
    reference: REFERENCE,
};
const LOGIN: Rule = Rule {
    id: "database_roles.login",
    title: "a role that only bundles privileges can log in",
    severity: Severity::Medium,
    remedy: "Run `alter role ROLE nologin`.",
    reference: REFERENCE,
};
const OWNER_SUPERUSER: Rule = Rule {
    id: "database_roles.owner_superuser",
    title: "the owner of the schema is a superuser",
    severity: Severity::Medium,
    remedy: "Give the schema an owner that is no superuser: it needs `createrole` for migrations, and nothing else.",
    reference: REFERENCE,
};
const CREATES: Rule = Rule {
    id: "database_roles.create",
    title: "the application may create schemas in the database",
    severity: Severity::Medium,
    remedy: "Run `revoke create on database DATABASE from ROLE`.",
    reference: REFERENCE,
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "database_roles",
    title: "the database roles can do what they have to, and no more",
    rules: &[SUPERUSER, ATTRIBUTE, OWNER, MEMBERSHIP, SEQUENCER, LOGIN, OWNER_SUPERUSER, CREATES],
};

#[derive(FromRow)]
struct DatabaseRole {
    name: String,
    is_application: bool,
    is_owner: bool,
    is_superuser: bool,
    creates_roles: bool,
    creates_databases: bool,
    replicates: bool,
    bypasses: bool,
    logs_in: bool,
    /// The application can become this role.
    is_reachable: bool,
    /// This role can become the sequencer.
    reaches_sequencer: bool,
}

/// The catalog's account of all roles: of predefined ones only whether the application is a member.
const ROLES: &str = "
    select r.rolname::text as name, r.rolname = current_user as is_application,
           r.oid = (select nspowner from pg_namespace where nspname = 'log') as is_owner,
           r.rolsuper as is_superuser, r.rolcreaterole as creates_roles, r.rolcreatedb as creates_databases,
           r.rolreplication as replicates, r.rolbypassrls as bypasses, r.rolcanlogin as logs_in,
           pg_has_role(current_user, r.oid, 'MEMBER') as is_reachable,
           pg_has_role(r.oid, 'fulexo_sequencer', $1) as reaches_sequencer
    from pg_roles r order by r.rolname";

/// Makes the check, as the application's role.
pub async fn check(connection: &mut PgConnection) -> Check {
    CHECK.asked(roles(connection).await)
}

async fn roles(connection: &mut PgConnection) -> Result<(AuditFindings, String), sqlx::Error> {
    let version: i32 =
        sqlx::query_scalar("select current_setting('server_version_num')::int").fetch_one(&mut *connection).await?;
    // Since version 16 the creator of a role is a member of it, and cannot become it.
    let mode = if version >= 160_000 { "SET" } else { "MEMBER" };
    let creates = sqlx::query_scalar("select has_database_privilege(current_database(), 'CREATE')");
    let creates: bool = creates.fetch_one(&mut *connection).await?;
    let roles: Vec<DatabaseRole> = sqlx::query_as(ROLES).bind(mode).fetch_all(connection).await?;
    let mut findings = AuditFindings::default();
    let application = roles.iter().find(|role| role.is_application);
    let (name, is_super) = application.map_or(("", false), |role| (role.name.as_str(), role.is_superuser));
    if is_super {
        findings.push(&SUPERUSER, name, "the role of DATABASE_URL is a superuser");
    } else if creates {
        findings.push(&CREATES, name, "the role of DATABASE_URL has the privilege CREATE on the database");
    }
    for role in &roles {
        // A superuser can become every role.
        let is_reachable = role.is_reachable && !is_super;
        let bundles = role.name == "fulexo_app" || role.name == "fulexo_sequencer";
        if (role.is_application || bundles) && !role.is_superuser {
            attributes(role, &mut findings);
        }
        if bundles && role.logs_in && !role.is_application {
            findings.push(&LOGIN, role.name.as_str(), "the role has the attribute LOGIN");
        }
        if role.is_owner && (is_reachable || role.is_application) {
            findings.push(&OWNER, name, format!("the log belongs to {}", role.name));
        }
        if role.is_owner && role.is_superuser && !role.is_application {
            findings.push(&OWNER_SUPERUSER, role.name.as_str(), "the role that owns the schema log is a superuser");
        }
        // The owner of a database is a member of pg_database_owner by itself.
        let is_known = role.is_application || role.is_owner || bundles || role.name == "pg_database_owner";
        if is_reachable && !is_known {
            findings.push(&MEMBERSHIP, role.name.as_str(), format!("{name} is a member of {}", role.name));
        }
        if role.reaches_sequencer && !role.is_superuser && role.name != "fulexo_sequencer" {
            findings.push(&SEQUENCER, role.name.as_str(), "the role can become fulexo_sequencer");
        }
    }
    Ok((findings, format!("the application is {name}")))
}

fn attributes(role: &DatabaseRole, findings: &mut AuditFindings) {
    let attributes = [
        (role.creates_roles, "CREATEROLE"),
        (role.creates_databases, "CREATEDB"),
        (role.replicates, "REPLICATION"),
        (role.bypasses, "BYPASSRLS"),
    ];
    for (has_it, attribute) in attributes {
        if has_it {
            let subject = format!("{} {attribute}", role.name);
            findings.push(&ATTRIBUTE, subject, format!("the role has the attribute {attribute}"));
        }
    }
}
