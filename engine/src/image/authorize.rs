//! How a [`Client`] convinces registries: with credentials (basic authentication) or with tokens that it gets for them
//! (distribution specification, "Token Authentication").
//!
//! Credentials go to the registry's own origin and to the token server that it names, and nowhere else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::challenge::{Challenge, parse_challenges};
use super::credentials::{Credentials, find_credentials};
use super::http::{Payload, Request, Response};
use super::registry::{Client, MAX_ANSWER, RegistryError, back_off, error_message};
use super::settings::Endpoint;
use super::url::{Scheme, Url};

impl Client {
    /// Sends a request with what is known of its authorization, and again with what the registry asks for.
    pub(super) async fn authorized(
        &self,
        endpoint: &Endpoint,
        request: &Request,
        scope: &str,
    ) -> Result<Response, RegistryError> {
        let unreachable = |source| RegistryError::Unreachable { registry: endpoint.registry.clone(), source };
        let key = (endpoint.base.clone(), scope.to_owned());
        let known = self.tokens.lock().await.get(&key).cloned();
        let response = self.http.send(&authorize(endpoint, request, known.as_ref())).await.map_err(unreachable)?;
        // A 401 of another host, after a redirect, is none of the registry's.
        if response.status != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let challenges =
            parse_challenges(response.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()));
        // One at a time: the layers of an image need one token, not eight.
        let mut tokens = self.tokens.lock().await;
        let current = tokens.get(&key).cloned();
        let authorization = if current != known && current.is_some() {
            current
        } else {
            let fresh = self.answer_challenges(endpoint, &challenges, scope).await?;
            match &fresh {
                Some(fresh) => tokens.insert(key, fresh.clone()),
                None => tokens.remove(&key),
            };
            fresh
        };
        drop(tokens);
        match authorization {
            None => Ok(response),
            Some(authorization) => {
                drop(response.bytes(MAX_ANSWER).await);
                self.http.send(&authorize(endpoint, request, Some(&authorization))).await.map_err(unreachable)
            }
        }
    }

    async fn answer_challenges(
        &self,
        endpoint: &Endpoint,
        challenges: &[Challenge],
        scope: &str,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let credentials = self.credentials_for(&endpoint.registry).await?;
        if let Some(challenge) = challenges.iter().find(|challenge| challenge.scheme == "bearer") {
            return self.fetch_token(endpoint, challenge, scope, credentials.as_ref()).await.map(Some);
        }
        let is_basic = challenges.iter().any(|challenge| challenge.scheme == "basic");
        Ok(match credentials {
            Some(Credentials::Basic { username, password }) if is_basic => Some(basic(&username, &password)),
            _ => None,
        })
    }

    /// Exchanges credentials, or nothing, for a token (distribution specification, "Token Authentication").
    async fn fetch_token(
        &self,
        endpoint: &Endpoint,
        challenge: &Challenge,
        scope: &str,
        credentials: Option<&Credentials>,
    ) -> Result<HeaderValue, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let step = "the request for a token";
        let registry = || endpoint.registry.clone();
        let bad = |message: &str| RegistryError::Answer { registry: registry(), step, message: message.to_owned() };
        let realm = challenge.parameter("realm").and_then(Url::parse).ok_or_else(|| bad("it names no token server"))?;
        if realm.scheme == Scheme::Http && endpoint.base.scheme == Scheme::Https && !endpoint.insecure {
            return Err(bad("it wants credentials sent in the clear"));
        }
        let service = challenge.parameter("service").unwrap_or_default();
        // What the registry asks for is what it will look for; ours is for those that don't say.
        let scope = challenge.parameter("scope").filter(|scope| !scope.is_empty()).unwrap_or(scope);
        let request = if let Some(Credentials::Identity { token }) = credentials {
            let mut request = Request::new(Method::POST, realm);
            let form = Url { path: "/".to_owned(), ..request.url.clone() }
                .with_query("grant_type", "refresh_token")
                .with_query("service", service)
                .with_query("client_id", "rcompose")
                .with_query("scope", scope)
                .with_query("refresh_token", token);
            request.body = Payload::Bytes(Bytes::from(form.path[2..].to_owned()));
            request.header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))
        } else {
            let mut url = realm;
            if !service.is_empty() {
                url = url.with_query("service", service);
            }
            for scope in scope.split(' ').filter(|scope| !scope.is_empty()) {
                url = url.with_query("scope", scope);
            }
            let request = Request::new(Method::GET, url);
            match credentials {
                Some(Credentials::Basic { username, password }) => {
                    request.header(AUTHORIZATION, basic(username, password))
                }
                _ => request,
            }
        };
        let mut attempt = 0;
        let response = loop {
            attempt += 1;
            match self.http.send(&request).await {
                Ok(response)
                    if response.status.is_server_error() || response.status == StatusCode::TOO_MANY_REQUESTS =>
                {
                    if attempt >= self.options.attempts {
                        break response;
                    }
                }
                Ok(response) => break response,
                Err(source) => {
                    if !source.is_temporary() || attempt >= self.options.attempts {
                        return Err(RegistryError::Unreachable { registry: realm_name(&request.url), source });
                    }
                }
            }
            back_off(attempt, None).await;
        };
        let status = response.status;
        if !status.is_success() {
            let message = error_message(response).await;
            return Err(match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    RegistryError::Denied { registry: registry(), message }
                }
                _ => RegistryError::Status { registry: registry(), step, status, message },
            });
        }
        let bytes = response.bytes(MAX_ANSWER).await.map_err(|error| bad(&error.to_string()))?;
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|error| bad(&error.to_string()))?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| bad("there is no token in it"))?;
        let mut value =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| bad("the token is no header value"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn credentials_for(&self, registry: &str) -> Result<Option<Credentials>, RegistryError> {
        let mut known = self.credentials.lock().await;
        // Those that were typed (see `check_login`) need no file.
        if let Some(credentials) = known.get(registry) {
            return Ok(credentials.clone());
        }
        let Some(config) = self.options.docker_config.clone() else {
            return Ok(None);
        };
        let name = registry.to_owned();
        let credentials = tokio::task::spawn_blocking(move || find_credentials(&config, &name))
            .await
            .expect("looking for credentials does not panic")
            .map_err(|source| RegistryError::Credentials { registry: registry.to_owned(), source })?;
        known.insert(registry.to_owned(), credentials.clone());
        Ok(credentials)
    }
}

fn realm_name(url: &Url) -> String {
    url.without_query()
}

/// Adds what is known of a registry's authorization, if the request is to the registry itself.
fn authorize(endpoint: &Endpoint, request: &Request, authorization: Option<&HeaderValue>) -> Request {
    let mut request = request.clone();
    if let Some(value) = authorization
        && request.url.same_origin(&endpoint.base)
    {
        request.headers.insert(AUTHORIZATION, value.clone());
    }
    request
}

pub(crate) fn basic(username: &str, password: &str) -> HeaderValue {
    let encoded = BASE64.encode(format!("{username}:{password}"));
    let mut value = HeaderValue::from_str(&format!("Basic {encoded}")).expect("base64 is ASCII");
    value.set_sensitive(true);
    value
}
