//! Tests of decisions in the form `given(..).when(..).then(..)`.

use std::fmt::Debug;

use crate::Aggregate;

pub fn given<A: Aggregate>(history: impl IntoIterator<Item = A::Event>) -> Given<A> {
    Given(history.into_iter().fold(A::State::default(), A::apply_event))
}

pub struct Given<A: Aggregate>(A::State);

pub struct When<A: Aggregate>(Result<Vec<A::Event>, A::Error>);

impl<A: Aggregate> Given<A> {
    pub fn when(self, command: A::Command) -> When<A> {
        When(A::handle_command(&self.0, command))
    }
}

impl<A: Aggregate> When<A>
where
    A::Event: Debug + PartialEq,
    A::Error: PartialEq,
{
    #[track_caller]
    pub fn then(self, events: impl IntoIterator<Item = A::Event>) {
        assert_eq!(self.0, Ok(events.into_iter().collect()));
    }

    #[track_caller]
    pub fn refused(self, error: A::Error) {
        assert_eq!(self.0, Err(error));
    }
}
