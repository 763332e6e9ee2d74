//! Queries of the past: the moment that `as_of` names, and pages of one moment.

use std::fmt::Display;

use chrono::{DateTime, Datelike, Utc};
use fulexo_node::answer::query_failed;
use fulexo_node::clock;
use fulexo_node::http::Problem;
use fulexo_node::http::problem::FieldError;
use fulexo_node::state::App;
use fulexo_node::timestamp::Timestamp;
use fulexo_projections::as_of::{AsOf, AsOfError, Moment};
use fulexo_projections::page::Paging;
use fulexo_projections::read_models::Projection;
use poem_openapi::Object;
use tokio::sync::SemaphorePermit;

use super::input::{Input, PageQuery, cursor_of};

/// The moment of a response.
#[derive(Object, Clone, Copy)]
#[oai(rename = "AsOf")]
pub struct AsOfResource {
    /// The position of the last event that counts. `null` before the first event.
    position: Option<u64>,
    /// The time at which locks and sessions are evaluated.
    time: Timestamp,
}

impl From<Moment> for AsOfResource {
    fn from(moment: Moment) -> Self {
        Self { position: moment.last(), time: moment.time.into() }
    }
}

/// The paging of a query that may have `as_of`.
pub struct AsOfPaging<'a, K> {
    pub paging: Paging<K>,
    /// The moment of the page. `None` for the present.
    pub moment: Option<Moment>,
    /// The permit for an expensive query, held while the page is read.
    _leave: Option<SemaphorePermit<'a>>,
}

/// Resolves `as_of`, and waits until the read models have applied that moment.
///
/// # Errors
/// 400 for a malformed moment or one beyond the end of the log; 503 if a read model is behind.
pub async fn moment(app: &App, as_of: Option<&str>, projections: &[Projection]) -> Result<Option<Moment>, Problem> {
    let Some(as_of) = as_of.map(parse).transpose()? else { return Ok(None) };
    let moment = resolve(app, as_of).await?;
    seen(app, moment, projections).await?;
    Ok(Some(moment))
}

/// Returns the present as a moment: the end of the log.
///
/// # Errors
/// 503 if a read model is behind.
pub async fn present(app: &App, projections: &[Projection]) -> Result<Moment, Problem> {
    let moment = resolve(app, AsOf::Time(DateTime::<Utc>::MAX_UTC)).await?;
    seen(app, moment, projections).await?;
    Ok(moment)
}

impl<'a, K> AsOfPaging<'a, K> {
    /// Resolves the moment of a page. The first page has the moment that `as_of` names. The cursor repeats the moment, so that
    /// all pages show the same one.
    ///
    /// # Errors
    /// 400 for a malformed parameter, or a cursor of another moment; 503 if a read model is behind.
    pub async fn of(
        app: &'a App,
        projections: &[Projection],
        as_of: Option<String>,
        wanted: PageQuery,
        read: impl Fn(&str) -> Option<K>,
    ) -> Result<Self, Problem> {
        let as_of = as_of.as_deref().map(parse).transpose()?;
        let Paging { after, order, limit } = wanted.paging(|text| Cursor::read(text, &read))?;
        let moment = match (as_of, after.as_ref().map(|cursor| cursor.moment)) {
            (None, None | Some(None)) => None,
            (Some(as_of), None) => Some(resolve(app, as_of).await?),
            (as_of, Some(Some(moment))) if as_of.is_none_or(|as_of| is_of(moment, as_of)) => Some(moment),
            (Some(_), Some(_)) | (None, Some(Some(_))) => {
                return Err(refused("/cursor", "must be the next_cursor of a page with the same as_of"));
            }
        };
        if let Some(moment) = moment {
            // A client can forge a cursor.
            if moment.last().is_some_and(|last| last >= *app.head.borrow()) {
                resolve(app, AsOf::Position(moment.position.unsigned_abs())).await?;
            }
            seen(app, moment, projections).await?;
        }
        let _leave = if moment.is_some() { Some(app.look_back().await?) } else { None };
        Ok(Self { paging: Paging { after: after.map(|cursor| cursor.key), order, limit }, moment, _leave })
    }

    /// Acquires the permit for a filtered page of the present: a filter that matches little reads much of the table.
    ///
    /// # Errors
    /// 503 if no permit becomes free in time.
    pub async fn searching(mut self, app: &'a App, is_search: bool) -> Result<Self, Problem> {
        if is_search && self._leave.is_none() {
            self._leave = Some(app.look_back().await?);
        }
        Ok(self)
    }

    /// Returns the cursor of the next page of the same moment.
    pub fn next(&self, next: Option<impl Display>) -> Option<String> {
        let key = next?;
        Some(match self.moment {
            Some(Moment { position, time }) => {
                cursor_of(self.paging.order, format_args!("{position}.{}.{key}", time.timestamp_micros()))
            }
            None => cursor_of(self.paging.order, key),
        })
    }

    /// Returns the moment as the page shows it.
    pub fn shown(&self) -> Option<AsOfResource> {
        self.moment.map(AsOfResource::from)
    }
}

/// A cursor: `<key>`, or `<position>.<microseconds>.<key>`. A key has no dots.
struct Cursor<K> {
    moment: Option<Moment>,
    key: K,
}

impl<K> Cursor<K> {
    fn read(text: &str, read: impl Fn(&str) -> Option<K>) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let (first, second, third) = (parts.next()?, parts.next(), parts.next());
        let (Some(micros), Some(key)) = (second, third) else {
            return second.is_none().then(|| read(first)).flatten().map(|key| Self { moment: None, key });
        };
        let position: i64 = first.parse().ok().filter(|position| *position >= -1)?;
        let time = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
        // The range of PostgreSQL's timestamps.
        let is_sound = (1..=9999).contains(&time.year());
        is_sound.then(|| read(key)).flatten().map(|key| Self { moment: Some(Moment { position, time }), key })
    }
}

/// `true` if `as_of` could have resolved to this moment. A future time resolves to the present.
fn is_of(moment: Moment, as_of: AsOf) -> bool {
    match as_of {
        AsOf::Position(position) => moment.last() == Some(position),
        AsOf::Time(time) => time.timestamp_micros() >= moment.time.timestamp_micros(),
    }
}

fn parse(text: &str) -> Result<AsOf, Problem> {
    let mut input = Input::default();
    input.parse("/as_of", text.parse::<AsOf>()).ok_or_else(|| input.refused())
}

async fn resolve(app: &App, as_of: AsOf) -> Result<Moment, Problem> {
    as_of.resolve(&app.pool, clock::now()).await.map_err(|error| match error {
        AsOfError::BeyondEnd(_) => refused("/as_of", "is beyond the end of the log"),
        AsOfError::Feed(fulexo_projections::feed::FeedError::Database(error)) => query_failed(error),
        AsOfError::Feed(error) => Problem::internal(error),
    })
}

async fn seen(app: &App, moment: Moment, projections: &[Projection]) -> Result<(), Problem> {
    for projection in projections {
        app.caught_up(*projection, moment.last()).await?;
    }
    Ok(())
}

fn refused(pointer: &str, detail: &'static str) -> Problem {
    Problem::invalid_input(vec![FieldError::new(pointer, detail)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(Option<i64>, u8)> {
        let cursor = Cursor::read(text, |key| key.parse::<u8>().ok())?;
        Some((cursor.moment.map(|moment| moment.position), cursor.key))
    }

    #[test]
    fn a_cursor_says_of_which_moment_its_page_is() {
        assert_eq!(read("7"), Some((None, 7)));
        assert_eq!(read("12.1793000000000000.7"), Some((Some(12), 7)));
        assert_eq!(read("-1.0.7"), Some((Some(-1), 7)));
        for text in ["", ".", "12.7", "12..7", "-2.0.7", "12.x.7", "12.0.x", "12.0.7.7", "12.9223372036854775807.7"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
