//! Forms (`application/x-www-form-urlencoded`) as bodies of operations, read like JSON when the caller was found to be allowed
//! the call.

use std::marker::PhantomData;

use hyper::body::Bytes;
use poem::{Request, RequestBody};
use poem_openapi::payload::{Form, ParsePayload, Payload};
use poem_openapi::registry::{MetaMediaType, MetaRequest, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use serde::de::DeserializeOwned;

use super::media_type;
use super::media_type::Readable;
use super::problem::Problem;

/// A form that has arrived and was not looked at yet.
pub struct FormBody<T> {
    bytes: Bytes,
    parses_to: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> FormBody<T> {
    /// Reads it, after the caller was found to be allowed the call.
    ///
    /// # Errors
    /// 400, with the first member at fault.
    pub async fn read(self, request: &Request) -> Result<T, Problem> {
        let mut body = RequestBody::new(self.bytes.into());
        let Form(value) = Form::<T>::from_request(request, &mut body).await.map_err(Problem::from)?;
        Ok(value)
    }
}

impl<'a, T: Type> ApiExtractor<'a> for FormBody<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content = vec![MetaMediaType { content_type: Form::<T>::CONTENT_TYPE, schema: T::schema_ref() }];
        Some(MetaRequest { description: None, content, required: true })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        media_type::the_only(request, Readable::Form)?;
        Ok(Self { bytes: body.take()?.into_bytes().await?, parses_to: PhantomData })
    }
}
