//! Queries of the past: which moment is meant, and pages that keep to it.

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

use super::input::{Input, Wanted, cursor_of};

/// The moment that an answer is about.
#[derive(Object, Clone, Copy)]
#[oai(rename = "AsOf")]
pub struct Shown {
    /// The last event that counts; missing before the first one.
    position: Option<u64>,
    /// What was locked or live was so at this time.
    time: Timestamp,
}

impl From<Moment> for Shown {
    fn from(moment: Moment) -> Self {
        Self { position: moment.last(), time: moment.time.into() }
    }
}

/// Where a page begins, and of which moment it is; the present when there is none.
pub struct PastPaging<'a, K> {
    pub paging: Paging<K>,
    pub moment: Option<Moment>,
    /// Held while the page is read.
    _leave: Option<SemaphorePermit<'a>>,
}

/// The moment that `as_of` names, once the read models have seen it.
///
/// # Errors
/// 400 for no moment, or one that the log has not reached; 503 when a read model is behind.
pub async fn moment(app: &App, as_of: Option<&str>, projections: &[Projection]) -> Result<Option<Moment>, Problem> {
    let Some(as_of) = as_of.map(parse).transpose()? else { return Ok(None) };
    let moment = resolve(app, as_of).await?;
    seen(app, moment, projections).await?;
    Ok(Some(moment))
}

/// The present, as a moment like any other: everything that the log has.
///
/// # Errors
/// 503 when a read model is behind.
pub async fn present(app: &App, projections: &[Projection]) -> Result<Moment, Problem> {
    let moment = resolve(app, AsOf::Time(DateTime::<Utc>::MAX_UTC)).await?;
    seen(app, moment, projections).await?;
    Ok(moment)
}

impl<'a, K> PastPaging<'a, K> {
    /// The first page is of the moment that `as_of` names. Its cursor names that moment, so that all pages are of the same
    /// one, whatever is recorded meanwhile.
    ///
    /// # Errors
    /// 400 for what cannot be read, or does not belong together; 503 when the read model is behind.
    pub async fn of(
        app: &'a App,
        projections: &[Projection],
        as_of: Option<String>,
        wanted: Wanted,
        read: impl Fn(&str) -> Option<K>,
    ) -> Result<Self, Problem> {
        let as_of = as_of.as_deref().map(parse).transpose()?;
        let Paging { after, order, limit } = wanted.paging(|text| Cursor::read(text, &read))?;
        let moment = match (as_of, after.as_ref().map(|cursor| cursor.moment)) {
            (None, None | Some(None)) => None,
            (Some(as_of), None) => Some(resolve(app, as_of).await?),
            (as_of, Some(Some(moment))) if as_of.is_none_or(|as_of| is_of(moment, as_of)) => Some(moment),
            (Some(_), Some(_)) | (None, Some(Some(_))) => {
                return Err(refused("/cursor", "must be the next_cursor of a page with this as_of"));
            }
        };
        if let Some(moment) = moment {
            // A cursor may come from anybody.
            if moment.last().is_some_and(|last| last >= *app.head.borrow()) {
                resolve(app, AsOf::Position(moment.position.unsigned_abs())).await?;
            }
            seen(app, moment, projections).await?;
        }
        let _leave = if moment.is_some() { Some(app.look_back().await?) } else { None };
        Ok(Self { paging: Paging { after: after.map(|cursor| cursor.key), order, limit }, moment, _leave })
    }

    /// For a page of the present that is searched for: of filters that little matches, a good part of the table is read.
    ///
    /// # Errors
    /// 503 when others are at it for too long.
    pub async fn searching(mut self, app: &'a App, is_search: bool) -> Result<Self, Problem> {
        if is_search && self._leave.is_none() {
            self._leave = Some(app.look_back().await?);
        }
        Ok(self)
    }

    /// The cursor of the next page of the same moment.
    pub fn next(&self, next: Option<impl Display>) -> Option<String> {
        let key = next?;
        Some(match self.moment {
            Some(Moment { position, time }) => {
                cursor_of(self.paging.order, format_args!("{position}.{}.{key}", time.timestamp_micros()))
            }
            None => cursor_of(self.paging.order, key),
        })
    }

    /// What the page says of its moment.
    pub fn shown(&self) -> Option<Shown> {
        self.moment.map(Shown::from)
    }
}

/// `<key>`, or `<position>.<microseconds>.<key>`; a key holds no dots.
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
        // What Postgres has times for.
        let is_sound = (1..=9999).contains(&time.year());
        is_sound.then(|| read(key)).flatten().map(|key| Self { moment: Some(Moment { position, time }), key })
    }
}

/// Whether the moment is one that this could have led to. A time to come was the present then.
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
