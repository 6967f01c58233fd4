//! Reading a request's parameters: each mistake gets the code that Stripe gives it.

use std::collections::BTreeMap;

use super::error::{ApiError, Refusal, shortened};
use super::form::{Form, Node};

/// Pairs of metadata on one object, and their sizes in characters. <https://docs.stripe.com/metadata#data>
const METADATA: (usize, usize, usize) = (50, 40, 500);
/// The longest text in any other parameter, in bytes.
const MAX_TEXT: usize = 5_000;

/// Parameters at one level of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Params<'a> {
    form: &'a Form,
    /// The name of the parameter that holds these, if any.
    parent: Option<&'a str>,
}

impl<'a> Params<'a> {
    /// The parameters of the whole request.
    pub(super) fn of(form: &'a Form) -> Self {
        Self { form, parent: None }
    }

    fn name(&self, name: &str) -> String {
        let name = shortened(name);
        self.parent.map_or_else(|| name.clone(), |parent| format!("{parent}[{name}]"))
    }

    /// Refuses names that are neither `read` nor, being Stripe's, `refused` because the simulator would get them wrong.
    pub(super) fn only(&self, read: &[&str], refused: &[&str]) -> Result<(), Refusal> {
        for (name, _) in self.form.iter() {
            let full = self.name(name);
            if refused.contains(&name) {
                return Err(ApiError::parameter(
                    &full,
                    format!("The simulated Stripe does not do what {full} asks for."),
                ));
            }
            if !read.contains(&name) {
                return Err(ApiError::parameter(&full, format!("Received unknown parameter: {full}"))
                    .coded("parameter_unknown"));
            }
        }
        Ok(())
    }

    /// A text; an empty one is refused, as at Stripe.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, Refusal> {
        match self.form.get(name) {
            None => Ok(None),
            Some(Node::Nested(_)) => {
                let full = self.name(name);
                Err(ApiError::parameter(&full, "Invalid string: a hash was given."))
            }
            Some(Node::Text(text)) if text.is_empty() => {
                let full = self.name(name);
                Err(ApiError::parameter(&full, format!("You passed an empty string for '{full}'."))
                    .coded("parameter_invalid_empty"))
            }
            Some(Node::Text(text)) if text.len() > MAX_TEXT => {
                let full = self.name(name);
                Err(ApiError::parameter(&full, format!("Invalid string: {full} is too long.")))
            }
            Some(Node::Text(text)) => Ok(Some(text)),
        }
    }

    /// A change of a text that an object keeps: another one, or none when it is empty. Nothing when it is not given.
    pub(super) fn change(&self, name: &str) -> Result<Option<Option<String>>, Refusal> {
        match self.form.get(name) {
            Some(Node::Text(text)) if text.is_empty() => Ok(Some(None)),
            _ => Ok(self.owned(name)?.map(Some)),
        }
    }

    /// A text, owned.
    pub(super) fn owned(&self, name: &str) -> Result<Option<String>, Refusal> {
        Ok(self.text(name)?.map(str::to_owned))
    }

    /// A text that must be there.
    pub(super) fn required(&self, name: &str) -> Result<&'a str, Refusal> {
        self.text(name)?.ok_or_else(|| self.absent(name))
    }

    fn absent(&self, name: &str) -> Refusal {
        let full = self.name(name);
        ApiError::parameter(&full, format!("Missing required param: {full}.")).coded("parameter_missing")
    }

    /// A whole number.
    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let digits = text.strip_prefix('-').unwrap_or(text);
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(value) if plain => Ok(Some(value)),
            _ => {
                let full = self.name(name);
                Err(ApiError::parameter(&full, format!("Invalid integer: {}", shortened(text)))
                    .coded("parameter_invalid_integer"))
            }
        }
    }

    /// A whole number that must be there.
    pub(super) fn required_integer(&self, name: &str) -> Result<i64, Refusal> {
        self.integer(name)?.ok_or_else(|| self.absent(name))
    }

    /// `true` or `false`; false when it is not given.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.text(name)? {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                let full = self.name(name);
                Err(ApiError::parameter(&full, format!("Invalid boolean: {}", shortened(other))))
            }
        }
    }

    /// One of several words.
    pub(super) fn choice(&self, name: &str, words: &[&str]) -> Result<Option<&'a str>, Refusal> {
        match self.text(name)? {
            Some(word) if !words.contains(&word) => {
                let full = self.name(name);
                let message =
                    format!("Invalid {full}: must be one of {}, not {}", words.join(", "), shortened(word));
                Err(ApiError::parameter(&full, message))
            }
            word => Ok(word),
        }
    }

    /// The parameters in brackets below a name. An empty text counts as none.
    pub(super) fn nested(&self, name: &'a str) -> Result<Option<Params<'a>>, Refusal> {
        match self.form.get(name) {
            None => Ok(None),
            Some(Node::Text(text)) if text.is_empty() => Ok(None),
            Some(Node::Text(_)) => {
                let full = self.name(name);
                Err(ApiError::parameter(&full, "Invalid object"))
            }
            Some(Node::Nested(form)) => Ok(Some(Params { form, parent: Some(name) })),
        }
    }

    /// The texts of a list, such as `expand[0]`.
    pub(super) fn list(&self, name: &'a str) -> Result<Vec<&'a str>, Refusal> {
        let Some(list) = self.nested(name)? else { return Ok(Vec::new()) };
        let names: Vec<&'a str> = list.form.iter().map(|(index, _)| index).collect();
        names.into_iter().map(|index| list.required(index)).collect()
    }

    /// The metadata of a new object.
    pub(super) fn metadata(&self) -> Result<BTreeMap<String, String>, Refusal> {
        self.metadata_over(BTreeMap::new())
    }

    /// The metadata of an object that had these. An empty text for all of it unsets all.
    pub(super) fn metadata_over(
        &self,
        mut metadata: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, Refusal> {
        if matches!(self.form.get("metadata"), Some(Node::Text(text)) if text.is_empty()) {
            return Ok(BTreeMap::new());
        }
        let Some(pairs) = self.nested("metadata")? else { return Ok(metadata) };
        for (key, node) in pairs.form.iter() {
            let full = pairs.name(key);
            let Node::Text(value) = node else {
                return Err(ApiError::parameter(&full, "Metadata values must be strings."));
            };
            if key.chars().count() > METADATA.1 || value.chars().count() > METADATA.2 {
                let message = "Metadata keys have at most 40 and values at most 500 characters.";
                return Err(ApiError::parameter(&full, message));
            }
            // An empty value unsets a key; on a new object there is nothing to unset.
            if value.is_empty() {
                metadata.remove(key);
            } else {
                metadata.insert(key.to_owned(), value.clone());
            }
        }
        if metadata.len() > METADATA.0 {
            return Err(ApiError::parameter("metadata", "You can have at most 50 keys of metadata."));
        }
        Ok(metadata)
    }
}

/// Which part of a list is asked for. <https://docs.stripe.com/api/pagination>
#[derive(Debug)]
pub(super) struct Window<'a> {
    limit: usize,
    starting_after: Option<&'a str>,
    ending_before: Option<&'a str>,
    created: Created,
}

/// Bounds of `created`, inclusive, in Unix seconds.
#[derive(Debug, Clone, Copy)]
struct Created {
    from: i64,
    to: i64,
}

/// The parameters that [`Window::read`] understands.
pub(super) const WINDOW: [&str; 5] = ["limit", "starting_after", "ending_before", "created", "expand"];

impl<'a> Window<'a> {
    /// Reads `limit`, the cursors and `created`.
    pub(super) fn read(params: Params<'a>) -> Result<Self, Refusal> {
        let limit = params.integer("limit")?.unwrap_or(10);
        if !(1..=100).contains(&limit) {
            return Err(ApiError::parameter("limit", "The limit must be between 1 and 100."));
        }
        Ok(Self {
            limit: usize::try_from(limit).unwrap_or(10),
            starting_after: params.text("starting_after")?,
            ending_before: params.text("ending_before")?,
            created: Created::read(params)?,
        })
    }

    /// The page out of rows that are given newest first, and whether there are more.
    pub(super) fn page<T>(
        &self,
        newest_first: impl Iterator<Item = T>,
        id: impl Fn(&T) -> &str,
        created: impl Fn(&T) -> i64,
    ) -> Result<(Vec<T>, bool), Refusal> {
        let mut rows: Vec<T> = newest_first
            .filter(|row| (self.created.from..=self.created.to).contains(&created(row)))
            .collect();
        let position = |rows: &[T], name: &str, cursor: &str| {
            rows.iter()
                .position(|row| id(row) == cursor)
                .ok_or_else(|| ApiError::missing_param(name, "object", cursor))
        };
        if let Some(cursor) = self.starting_after {
            let at = position(&rows, "starting_after", cursor)?;
            rows.drain(..=at);
        } else if let Some(cursor) = self.ending_before {
            let at = position(&rows, "ending_before", cursor)?;
            rows.truncate(at);
            let more = rows.len() > self.limit;
            rows.drain(..rows.len().saturating_sub(self.limit));
            return Ok((rows, more));
        }
        let more = rows.len() > self.limit;
        rows.truncate(self.limit);
        Ok((rows, more))
    }
}

impl Created {
    fn read(params: Params<'_>) -> Result<Self, Refusal> {
        let mut created = Self { from: i64::MIN, to: i64::MAX };
        if !matches!(params.form.get("created"), Some(Node::Nested(_))) {
            if let Some(exact) = params.integer("created")? {
                created = Self { from: exact, to: exact };
            }
            return Ok(created);
        }
        let Some(bounds) = params.nested("created")? else { return Ok(created) };
        bounds.only(&["gt", "gte", "lt", "lte"], &[])?;
        let floors = [bounds.integer("gte")?, bounds.integer("gt")?.map(|at| at.saturating_add(1))];
        let ceilings = [bounds.integer("lte")?, bounds.integer("lt")?.map(|at| at.saturating_sub(1))];
        created.from = floors.into_iter().flatten().max().unwrap_or(i64::MIN);
        created.to = ceilings.into_iter().flatten().min().unwrap_or(i64::MAX);
        Ok(created)
    }
}
