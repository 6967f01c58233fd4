//! Which route a request is for. Security critical: the answer decides what is paid.
//!
//! # Patterns
//! Literal segments, `{name}` for one non-empty segment, and a final `*` for any rest: `/api/*` is everything below `/api/`,
//! itself included, but not `/api`. The most specific pattern wins, segment by segment: literal, then `{name}`, then `*`.
//!
//! # No free detour
//! Upstreams often serve `/API/Weather`, `/api/weather/` or `/api/w%65ather` as `/api/weather`. Matching is exact, so such a
//! spelling would slip from the priced route into a free or cheaper pattern. Therefore a route that was chosen by a pattern
//! is **not** used when a dearer route, *whatever its method*, has a pattern that is at least as specific and matches the
//! folded path (see [`folded`](crate::pricing::path::folded)). The answer is then [`Found::NotConfigured`]: fail closed.
//! Some upstreams also take `/api/weather.json` for `/api/weather`: a dearer route that matches without the extension objects
//! when its pattern is more specific than the chosen one. And some decode `%3F` or `%23` before they look for the query: for
//! the path up to there every dearer route objects, unless the chosen one matches it too and is more specific. So it is for a
//! path that has other segments once its full-width `／` is a `/`. Rewriting rules that make a parameter of the path end it at a
//! `&`: there a dearer route objects whose pattern is more specific.
//! Two exceptions, both written down by the seller: a literal route that equals the request path and lists its method is
//! always used, and routes with the very same pattern differ by method only, so their prices do not concern each other.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::fmt;

use super::path::{CanonicalPath, canonicalise, fold, split_afterwards};
use super::price::RouteCharge;

mod pattern;
mod spelling;

use pattern::{Pattern, before_parameter, before_query, segments};

/// What a route may list.
pub const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

/// A route as its seller has written it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRule {
    /// Upper-case HTTP methods. `GET` implies `HEAD` at the same price.
    pub methods: BTreeSet<String>,
    /// Starts with `/`; segments are literals, `{name}`, or a final `*` for any rest.
    pub pattern: String,
    /// What a request costs there.
    pub charge: RouteCharge,
}

impl RouteRule {
    /// For people, labels and entries: `GET /api/weather`, with several methods `GET,POST /x`.
    #[must_use]
    pub fn name(&self) -> String {
        let methods: Vec<&str> = self.methods.iter().map(String::as_str).collect();
        format!("{} {}", methods.join(","), self.pattern)
    }
}

/// A route that can be matched, and what it leads to.
#[derive(Debug)]
pub struct Route<T> {
    /// Its place in the configuration.
    index: usize,
    /// See [`RouteRule::name`].
    pub name: String,
    /// As written.
    pub rule: RouteRule,
    /// What the door keeps of it.
    pub leads_to: T,
}

/// The answer to a lookup.
#[derive(Debug)]
pub enum Found<'a, T> {
    /// Use this route.
    Route(&'a Route<T>),
    /// No route may serve this request.
    NotConfigured {
        /// The name of the route that was probably meant: the spelling or the method differs.
        looks_like: Option<&'a str>,
    },
}

/// A route that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("routes[{index}]: {message}")]
pub struct RouteProblem {
    /// Its place in the configuration, from zero.
    pub index: usize,
    /// A sentence without the final full stop.
    pub message: String,
}

/// A free pattern and a priced one that match the same path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// Name of the free route.
    pub free: String,
    /// Name of the priced route.
    pub priced: String,
    /// A path that both match, perhaps in another spelling.
    pub example: String,
    /// Whether the free route serves the example: then the seller should mean it. Otherwise the price is kept.
    pub free_serves_it: bool,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { free, priced, example, free_serves_it } = self;
        write!(f, "{free} (free) and {priced} (priced) both match {example}: ")?;
        f.write_str(if *free_serves_it {
            "the free route serves it, so check that you mean this"
        } else {
            "the free route does not serve it"
        })
    }
}

impl<T> Route<T> {
    fn is_dearer_than(&self, other: &Self) -> bool {
        self.rule.charge.is_dearer_than(other.rule.charge)
    }
}

/// Every route, ready to be looked up.
#[derive(Debug)]
pub struct RouteTable<T> {
    /// In the order of the configuration.
    routes: Vec<Route<T>>,
    /// The pattern of each route.
    patterns: Vec<Pattern>,
    /// For each route the dearer routes that may object to it, most specific first.
    rivals: Vec<Vec<usize>>,
    /// Routes without parameters, by path.
    literal: HashMap<String, Vec<usize>>,
    /// Routes with `{name}` or `*`, most specific first.
    general: Vec<usize>,
    /// Every route, most specific first: for `looks_like`.
    by_specificity: Vec<usize>,
}

impl<T> RouteTable<T> {
    /// Checks and prepares the routes.
    ///
    /// # Errors
    /// Every [`RouteProblem`] at once.
    pub fn new(routes: impl IntoIterator<Item = (RouteRule, T)>) -> Result<Self, Vec<RouteProblem>> {
        let (rules, lead_to): (Vec<RouteRule>, Vec<T>) = routes.into_iter().unzip();
        let mut problems = Vec::new();
        let mut written = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let mut problem = |message: String| problems.push(RouteProblem { index, message });
            if rule.methods.is_empty() {
                problem("it lists no method".to_owned());
            }
            for method in rule.methods.iter().filter(|method| !METHODS.contains(&method.as_str())) {
                problem(format!("{method:?} is not one of {}", METHODS.join(", ")));
            }
            match Written::new(index, &rule.methods, &rule.pattern) {
                Ok(route) => written.push(route),
                Err(message) => problem(format!("the path {message}")),
            }
        }
        if problems.is_empty() {
            problems = equal_routes(&written);
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let patterns = written.into_iter().map(|route| route.pattern).collect();
        let route = |(index, (rule, leads_to)): (usize, (RouteRule, T))| Route {
            index,
            name: rule.name(),
            rule,
            leads_to,
        };
        let routes = rules.into_iter().zip(lead_to).enumerate().map(route).collect();
        Ok(Self::compile(routes, patterns))
    }

    fn compile(routes: Vec<Route<T>>, patterns: Vec<Pattern>) -> Self {
        let mut by_specificity: Vec<usize> = (0..routes.len()).collect();
        by_specificity.sort_by(|a, b| patterns[*a].specificity(&patterns[*b]));
        let mut literal: HashMap<String, Vec<usize>> = HashMap::new();
        let mut general = Vec::new();
        for index in &by_specificity {
            if patterns[*index].is_literal() {
                literal.entry(routes[*index].rule.pattern.clone()).or_default().push(*index);
            } else {
                general.push(*index);
            }
        }
        let rivals = (0..routes.len())
            .map(|index| {
                let can_object = |rival: &&usize| {
                    routes[**rival].is_dearer_than(&routes[index])
                        && patterns[**rival] != patterns[index]
                        && patterns[**rival].specificity(&patterns[index]) != Ordering::Greater
                };
                by_specificity.iter().filter(can_object).copied().collect()
            })
            .collect();
        Self { routes, patterns, rivals, literal, general, by_specificity }
    }

    /// The routes in the order of the configuration.
    #[must_use]
    pub fn routes(&self) -> &[Route<T>] {
        &self.routes
    }

    /// The route for a request; see the module for the rules. `method` is upper case; `HEAD` is served where `GET` is.
    #[must_use]
    pub fn find(&self, method: &str, path: &CanonicalPath) -> Found<'_, T> {
        let exact = self.literal.get(path.as_str());
        if let Some(route) = exact.and_then(|routes| self.first_with_method(routes.iter(), method)) {
            return Found::Route(route);
        }
        let parts = segments(path.as_str());
        let matching = self.general.iter().filter(|index| self.patterns[**index].matches(&parts));
        let selected = self.first_with_method(matching, method);
        if let Some(route) =
            selected.filter(|route| self.rivals[route.index].is_empty() && !path.as_str().contains('%'))
        {
            return Found::Route(route);
        }
        let folded = fold(path.as_str());
        let alike = match selected {
            Some(route) => self.objection(route, &folded).or_else(|| {
                let other = split_afterwards(path)?;
                let readings = [Some(other.as_str()), before_query(&other), before_parameter(&other)];
                readings.into_iter().flatten().find_map(|reading| self.objection_to(route, reading))
            }),
            None => {
                let parts = segments(&folded);
                self.by_specificity.iter().find(|index| self.patterns[**index].matches_folded(&parts))
            }
        };
        match (selected, alike) {
            (Some(route), None) => Found::Route(route),
            (_, alike) => {
                Found::NotConfigured { looks_like: alike.map(|index| self.routes[*index].name.as_str()) }
            }
        }
    }

    /// The dearer route for which an upstream could take the path, although `selected` matches it.
    fn objection(&self, selected: &Route<T>, folded: &str) -> Option<&usize> {
        let own = &self.patterns[selected.index];
        let parts = segments(folded);
        let by_spelling = self.rivals[selected.index].iter().find(|rival| {
            let pattern = &self.patterns[**rival];
            pattern.matches_folded(&parts)
                || (pattern.specificity(own) == Ordering::Less && pattern.matches_with_extension(&parts))
        });
        by_spelling
            .or_else(|| {
                let parts = segments(before_parameter(folded)?);
                let is_meant = |rival: &&usize| {
                    let pattern = &self.patterns[**rival];
                    pattern.specificity(own) == Ordering::Less && pattern.matches_folded(&parts)
                };
                self.rivals[selected.index].iter().find(is_meant)
            })
            .or_else(|| self.objection_to(selected, before_query(folded)?))
    }

    /// The same where an upstream sees another path: being less specific is no excuse here. `/jokes/{id}` does not match what
    /// `/jokes/%3Fx` is cut to, `/{list}` does.
    fn objection_to(&self, selected: &Route<T>, other: &str) -> Option<&usize> {
        let own = &self.patterns[selected.index];
        let parts = segments(other);
        let matches_too = own.matches_folded(&parts);
        self.by_specificity.iter().find(|index| {
            let pattern = &self.patterns[**index];
            let may_object =
                !matches_too || (pattern != own && pattern.specificity(own) != Ordering::Greater);
            may_object
                && self.routes[**index].is_dearer_than(selected)
                && pattern.matches_with_extension(&parts)
        })
    }

    fn first_with_method<'a>(
        &'a self,
        mut candidates: impl Iterator<Item = &'a usize>,
        method: &str,
    ) -> Option<&'a Route<T>> {
        candidates
            .find(|index| serves(&self.routes[**index].rule.methods, method))
            .map(|index| &self.routes[*index])
    }

    /// Every free pattern that shares a path, in any spelling, with a priced one, so that the seller can be told.
    #[must_use]
    pub fn overlaps(&self) -> Vec<Overlap> {
        let is_free = |route: &&Route<T>| route.rule.charge == RouteCharge::Free;
        let mut overlaps = Vec::new();
        for free in self.routes.iter().filter(is_free) {
            for priced in self.routes.iter().filter(|route| !is_free(route)) {
                let (left, right) = (&self.patterns[free.index], &self.patterns[priced.index]);
                if left == right {
                    continue;
                }
                if let Some(example) = right.common_path(left) {
                    let free_serves_it = self.serves(free, &example);
                    let (free, priced) = (free.name.clone(), priced.name.clone());
                    overlaps.push(Overlap { free, priced, example, free_serves_it });
                }
            }
        }
        overlaps
    }

    /// Where `POST` costs less than another method of the same path: the cheaper route, the dearer one, and a path. Many
    /// frameworks take the method of a `POST` from a parameter or a form field, which is no gateway's to see.
    #[must_use]
    pub fn cheaper_posts(&self) -> Vec<(String, String, String)> {
        let mut found = Vec::new();
        for cheap in self.routes.iter().filter(|route| route.rule.methods.contains("POST")) {
            for dear in self.routes.iter().filter(|dear| dear.is_dearer_than(cheap)) {
                let changes = |method: &&String| !matches!(method.as_str(), "GET" | "HEAD" | "POST");
                let shared = self.patterns[dear.index].common_path(&self.patterns[cheap.index]);
                if let Some(path) = shared
                    && dear.rule.methods.iter().any(|method| changes(&method))
                    && self.serves(cheap, &path)
                    && self.serves(dear, &path)
                {
                    found.push((cheap.name.clone(), dear.name.clone(), path));
                }
            }
        }
        found
    }

    /// Whether this very route answers the path, with any of its methods.
    fn serves(&self, route: &Route<T>, path: &str) -> bool {
        canonicalise(path).is_ok_and(|path| {
            route.rule.methods.iter().any(|method| {
                matches!(self.find(method, &path), Found::Route(found) if found.index == route.index)
            })
        })
    }
}

/// A route as far as it can be read: its place in the configuration, its methods, its path.
#[derive(Debug)]
pub(crate) struct Written<'a> {
    index: usize,
    methods: &'a BTreeSet<String>,
    path: &'a str,
    pattern: Pattern,
}

impl<'a> Written<'a> {
    /// Reads the path.
    ///
    /// # Errors
    /// What is wrong with it, as it goes on after the path's name, without the final full stop.
    pub(crate) fn new(index: usize, methods: &'a BTreeSet<String>, path: &'a str) -> Result<Self, String> {
        Ok(Self { index, methods, path, pattern: Pattern::parse(path)? })
    }
}

/// Whether a route may have this path.
///
/// # Errors
/// What is wrong with it, as it goes on after the path's name, without the final full stop.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    Pattern::parse(path).map(drop)
}

/// Two routes that no rule could choose between.
pub(crate) fn equal_routes(routes: &[Written<'_>]) -> Vec<RouteProblem> {
    let mut problems = Vec::new();
    for (place, route) in routes.iter().enumerate() {
        for other in routes.iter().take(place) {
            let shared =
                METHODS.iter().find(|method| serves(route.methods, method) && serves(other.methods, method));
            if let Some(method) = shared.filter(|_| route.pattern == other.pattern) {
                let message = format!(
                    "{method} {} is also matched by routes[{}], {}",
                    route.path, other.index, other.path
                );
                problems.push(RouteProblem { index: route.index, message });
            }
        }
    }
    problems
}

/// Whether the route answers this method: `GET` answers `HEAD` at the same price.
fn serves(methods: &BTreeSet<String>, method: &str) -> bool {
    methods.contains(method) || (method == "HEAD" && methods.contains("GET"))
}

#[cfg(test)]
mod tests;
