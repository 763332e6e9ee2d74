//! JSON bodies of operations. An operation receives the bytes, and reads them once it has found that the caller may
//! call it: a caller who may not costs no parsing, and learns nothing about the schema. In place of
//! `poem_openapi::payload::Json`, which parses before the handler runs, stops at the first fault, rarely names the
//! member (a missing one never), quotes the value it found, a password as readily as any other, and takes `false` for
//! the text "false".

use std::marker::PhantomData;
use std::sync::Arc;

use hyper::body::Bytes;
use poem::{Request, RequestBody};
use poem_openapi::payload::{Json, Payload};
use poem_openapi::registry::{MetaMediaType, MetaRequest, Registry};
use poem_openapi::types::ParseFromJSON;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use serde_json::Value;

use super::media_type::Readable;
use super::problem::{FieldError, Problem};
use super::strict_json::BodySchema;
use super::{bad_input, media_type};

/// A JSON body that has arrived and was not looked at yet.
pub struct JsonBody<T> {
    bytes: Bytes,
    schema: Arc<BodySchema>,
    parses_to: PhantomData<fn() -> T>,
}

impl<T: ParseFromJSON> JsonBody<T> {
    /// Reads it strictly, after the caller was found to be allowed the call.
    ///
    /// # Errors
    /// 400, with each member at fault.
    pub fn read(self) -> Result<T, Problem> {
        let value = self.schema.read(&self.bytes);
        Self::parsed(value)
    }

    /// Reads a body in somebody else's format, which grows: as [`JsonBody::read`], but members that the schema does not have
    /// are skipped.
    ///
    /// # Errors
    /// 400, with each member at fault.
    pub fn read_known(self) -> Result<T, Problem> {
        let value = self.schema.read_known(&self.bytes);
        Self::parsed(value)
    }

    fn parsed(value: Result<Value, Vec<FieldError>>) -> Result<T, Problem> {
        let value = value.map_err(Problem::invalid_input)?;
        // A fault that the schema cannot tell (a custom validator) is taken from the text of the error, without the
        // quotes.
        T::parse_from_json(Some(value))
            .map_err(|error| Problem::invalid_input(vec![bad_input::by_text(&error.into_message())]))
    }
}

impl<'a, T: ParseFromJSON> ApiExtractor<'a> for JsonBody<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content = vec![MetaMediaType { content_type: Json::<T>::CONTENT_TYPE, schema: T::schema_ref() }];
        Some(MetaRequest { description: None, content, required: T::IS_REQUIRED })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        media_type::the_only(request, Readable::Json)?;
        let Some(schema) = request.data::<Arc<BodySchema>>() else {
            return Err(Problem::internal("the schema is not attached to the request").into());
        };
        let bytes = body.take()?.into_bytes().await?;
        Ok(Self { bytes, schema: Arc::clone(schema), parses_to: PhantomData })
    }
}
