//! Incidents: opened, worked on and closed by those who may manage them. What they write concerns no one person, and is
//! sealed under the key of its author, or of the month if that is no account.
//!
//! A containment is recorded here, before and after its measures. Its measures are other commands.

use chrono::{DateTime, Utc};
use fulexo_domain::Aggregate;
use fulexo_domain::event::{Actor, Category, Stream};
use fulexo_domain::incident::{
    ContainmentMeasures, Incident, IncidentCommand, IncidentEvent, IncidentLinks, IncidentSeverity, IncidentState,
};
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::values::{AccountId, IncidentId, IncidentText, Reason};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Builder;

use crate::authorization::roles;
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome, CommitOutcome};
use crate::idempotency::{self, IdempotencyKey};
use crate::log::ExpectedVersion;
use crate::reason;
use crate::unit_of_work::UnitOfWork;
use crate::vault::Vault;
use crate::write_side::WriteSide;

/// An incident to open.
pub struct NewIncident {
    /// The severity.
    pub severity: IncidentSeverity,
    /// The account that leads the response.
    pub owner: Option<AccountId>,
    /// The evidence.
    pub links: IncidentLinks,
    /// The summary.
    pub summary: IncidentText,
}

/// The cause of an incident that a machine reports, perhaps more than once. Each cause has one incident at most, for good.
pub struct IncidentCause {
    /// The parts of its name, the kind of the cause first. No part is readable from the incident.
    pub name: Vec<String>,
    /// The time at which it began. The incident stands at this time in lists.
    pub began_at: DateTime<Utc>,
    /// The permission that it takes to report it.
    pub permission: Permission,
}

impl IncidentCause {
    /// Returns the id of its incident: a UUIDv7 of the time with a keyed digest in place of chance.
    fn incident(&self, vault: &Vault) -> IncidentId {
        let time = self.began_at.timestamp_micros().to_be_bytes();
        let parts: Vec<&[u8]> = self.name.iter().map(String::as_bytes).chain([time.as_slice()]).collect();
        let digest = vault.digest("incident/cause", &parts);
        let mut random = [0; 10];
        random.iter_mut().zip(digest).for_each(|(byte, digit)| *byte = digit);
        // It has 48 bits.
        let millis = u64::try_from(self.began_at.timestamp_millis()).unwrap_or(0).min((1 << 48) - 1);
        IncidentId(Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }
}

/// A step in the response to an incident, with what is written about it.
pub enum IncidentStep {
    /// The threat and its cause were removed.
    Eradicate(IncidentText),
    /// The service works as usual.
    Recover(IncidentText),
    /// The incident ends, with its lessons.
    Close(IncidentText),
    /// A note, with more evidence.
    Note(IncidentText, IncidentLinks),
    /// Another owner, another severity.
    Triage(Option<AccountId>, Option<IncidentSeverity>),
}

impl IncidentStep {
    const fn operation(&self) -> &'static str {
        match self {
            Self::Eradicate(_) => "eradicate_incident",
            Self::Recover(_) => "recover_incident",
            Self::Close(_) => "close_incident",
            Self::Note(..) => "note_incident",
            Self::Triage(..) => "triage_incident",
        }
    }

    const fn text(&self) -> Option<(SealedField, &IncidentText)> {
        match self {
            Self::Eradicate(note) | Self::Recover(note) | Self::Note(note, _) => Some((SealedField::Note, note)),
            Self::Close(lessons) => Some((SealedField::Lessons, lessons)),
            Self::Triage(..) => None,
        }
    }

    fn command(&self) -> IncidentCommand {
        match self {
            Self::Eradicate(_) => IncidentCommand::Eradicate,
            Self::Recover(_) => IncidentCommand::Recover,
            Self::Close(_) => IncidentCommand::Close,
            Self::Note(_, links) => IncidentCommand::Note(links.clone()),
            Self::Triage(owner, severity) => IncidentCommand::Triage { owner: *owner, severity: *severity },
        }
    }

    /// Returns what a repetition must have in common with the step, besides its text.
    fn content(&self) -> Result<String, serde_json::Error> {
        match self {
            Self::Eradicate(_) | Self::Recover(_) | Self::Close(_) => Ok(String::new()),
            Self::Note(_, links) => serde_json::to_string(links),
            Self::Triage(owner, severity) => serde_json::to_string(&(owner, severity)),
        }
    }
}

pub(crate) async fn open(
    side: &WriteSide,
    context: &Context,
    new: NewIncident,
) -> Result<CommandOutcome<IncidentId>, CommandError> {
    let NewIncident { severity, owner, links, summary } = new;
    let content = serde_json::to_string(&(severity, owner, &links))?;
    let parts = [content.as_bytes(), summary.as_str().as_bytes()];
    let idempotency = IdempotencyKey::of(&side.vault, context, "open_incident", &parts);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        require_account(side, owner).await?;
        let sealing = reason::text_of_actor(&side.vault, context, SealedField::Summary, summary.as_str()).await?;
        execute::decide(side, idempotency.as_ref(), async || {
            let id = IncidentId(context.new_id());
            let command = IncidentCommand::Open { links: links.clone(), owner, severity };
            let events = Incident::handle_command(&IncidentState::default(), command)?;
            let mut unit = side.unit_of_work(context).sealing(sealing.clone());
            require_responder(side, &mut unit, context, Permission::IncidentsManage).await?;
            unit.expect(Category::Incident, id.0, ExpectedVersion::New);
            unit.record(id.0, None, events)?;
            Ok((unit, id))
        })
        .await
    })
    .await
}

/// Returns the incident of a cause, if it was reported.
pub(crate) async fn find(side: &WriteSide, cause: &IncidentCause) -> Result<Option<IncidentId>, CommandError> {
    let id = cause.incident(&side.vault);
    let (_, version) = load(side, id).await?;
    Ok((version > 0).then_some(id))
}

/// Opens the incident of a cause, or answers the one that it has. The value says whether it is new.
pub(crate) async fn report(
    side: &WriteSide,
    context: &Context,
    cause: &IncidentCause,
    new: NewIncident,
) -> Result<CommandOutcome<(IncidentId, bool)>, CommandError> {
    let NewIncident { severity, owner, links, summary } = new;
    if let Some(id) = find(side, cause).await? {
        return execute::replayed(&side.log, (id, false)).await;
    }
    require_account(side, owner).await?;
    let sealing = reason::text_of_actor(&side.vault, context, SealedField::Summary, summary.as_str()).await?;
    let id = cause.incident(&side.vault);
    execute::run_once(&side.log, None, async {
        execute::decide(side, None, async || {
            // Another report of the same cause may have been faster.
            let (state, version) = load(side, id).await?;
            if version > 0 {
                return Ok((side.unit_of_work(context), (id, false)));
            }
            let command = IncidentCommand::Open { links: links.clone(), owner, severity };
            let events = Incident::handle_command(&state, command)?;
            let mut unit = side.unit_of_work(context).sealing(sealing.clone());
            require_responder(side, &mut unit, context, cause.permission).await?;
            unit.expect(Category::Incident, id.0, ExpectedVersion::New);
            unit.record(id.0, None, events)?;
            Ok((unit, (id, true)))
        })
        .await
    })
    .await
}

pub(crate) async fn take_step(
    side: &WriteSide,
    context: &Context,
    id: IncidentId,
    step: IncidentStep,
) -> Result<CommandOutcome<()>, CommandError> {
    let content = step.content()?;
    let text = step.text().map_or("", |(_, text)| text.as_str());
    let parts = [id.0.as_bytes().as_slice(), content.as_bytes(), text.as_bytes()];
    let idempotency = IdempotencyKey::of(&side.vault, context, step.operation(), &parts);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        if let IncidentStep::Triage(owner, _) = step {
            require_account(side, owner).await?;
        }
        let sealed = step.text().map(|(field, text)| (field, text.as_str()));
        append(side, context, idempotency.as_ref(), id, &step.command(), sealed, ()).await
    })
    .await
}

/// Records that a containment begins. Each attempt is recorded, so that the measures of one that was interrupted are found.
pub(crate) async fn start_containment(
    side: &WriteSide,
    context: &Context,
    id: IncidentId,
    measures: ContainmentMeasures,
    reason: &Reason,
) -> Result<(), CommandError> {
    let (command, sealed) = (IncidentCommand::StartContainment(measures), Some((SealedField::Reason, reason.as_str())));
    append(side, context, None, id, &command, sealed, ()).await.map(drop)
}

/// Returns the outcome of a containment that an earlier call with the same idempotency key recorded.
pub(crate) async fn containment_outcome<O: DeserializeOwned>(
    side: &WriteSide,
    context: &Context,
    id: IncidentId,
    content: &[u8],
) -> Result<Option<CommandOutcome<O>>, CommandError> {
    let idempotency = containment_key(side, context, id, content);
    match idempotency::stored_outcome(&side.log, idempotency.as_ref()).await? {
        Some(outcome) => execute::replayed(&side.log, outcome).await.map(Some),
        None => Ok(None),
    }
}

/// Records that every measure of a containment is in force, and stores its outcome under the client's idempotency key.
pub(crate) async fn record_containment<O: Serialize + DeserializeOwned + Clone>(
    side: &WriteSide,
    context: &Context,
    id: IncidentId,
    content: &[u8],
    measures: ContainmentMeasures,
    outcome: O,
) -> Result<CommandOutcome<O>, CommandError> {
    let idempotency = containment_key(side, context, id, content);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        append(side, context, idempotency.as_ref(), id, &IncidentCommand::Contain(measures), None, outcome).await
    })
    .await
}

fn containment_key(side: &WriteSide, context: &Context, id: IncidentId, content: &[u8]) -> Option<IdempotencyKey> {
    IdempotencyKey::of(&side.vault, context, "contain_incident", &[id.0.as_bytes(), content])
}

async fn append<O: Serialize + DeserializeOwned + Clone>(
    side: &WriteSide,
    context: &Context,
    idempotency: Option<&IdempotencyKey>,
    id: IncidentId,
    command: &IncidentCommand,
    sealed: Option<(SealedField, &str)>,
    outcome: O,
) -> Result<CommitOutcome<O>, CommandError> {
    let sealing = match sealed {
        Some((field, text)) => reason::text_of_actor(&side.vault, context, field, text).await?,
        None => None,
    };
    execute::decide(side, idempotency, async || {
        let (state, version) = load(side, id).await?;
        let events = Incident::handle_command(&state, command.clone())?;
        let mut unit = side.unit_of_work(context).sealing(sealing.clone());
        require_responder(side, &mut unit, context, Permission::IncidentsManage).await?;
        unit.expect(Category::Incident, id.0, ExpectedVersion::Exact(version));
        unit.record(id.0, None, events)?;
        Ok((unit, outcome.clone()))
    })
    .await
}

/// Reads an incident. Its stream is short: `MAX_ENTRIES` bounds it.
async fn load(side: &WriteSide, id: IncidentId) -> Result<(IncidentState, u64), CommandError> {
    let events = side.log.load(Stream { category: Category::Incident, id: id.0 }).await?;
    let version = events.last().map_or(0, |event| event.version);
    // All events of the stream are of this category.
    let events = events.into_iter().filter_map(|recorded| IncidentEvent::try_from(recorded.event).ok());
    Ok((events.fold(IncidentState::default(), Incident::apply_event), version))
}

/// Checks that an account still may manage or report incidents. The authority of a service was judged with its request.
async fn require_responder(
    side: &WriteSide,
    unit: &mut UnitOfWork<'_>,
    context: &Context,
    permission: Permission,
) -> Result<(), CommandError> {
    match context.actor {
        Actor::ApiKey { .. } => Ok(()),
        Actor::Account { .. } | Actor::Anonymous | Actor::Operator | Actor::System => {
            roles::require_granter(side, unit, context, Permissions::of(&[permission])).await
        }
    }
}

/// Checks that the account of an owner exists.
async fn require_account(side: &WriteSide, owner: Option<AccountId>) -> Result<(), CommandError> {
    let Some(owner) = owner else { return Ok(()) };
    let (state, _) = side.account_state(owner).await?;
    if state.registered && !state.erased { Ok(()) } else { Err(CommandError::NoSuchOwner) }
}
