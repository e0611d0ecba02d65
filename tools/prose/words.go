package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

const (
	// minWords is the length below which a sentence is too short to rate.
	minWords = 8
	// maxWords is the length above which a sentence gets a warning.
	maxWords = 35
)

// words are phrases that readers of the docs had to read twice, each with a better one. A word that
// is right in some contexts is not listed.
var words = []struct{ pattern, instead string }{
	// The field has another word.
	{`mend(s|ed|ing)?`, "fix"},
	{`folders?`, "directory"},
	{`withdraw(n|s|al|als)?|withdrew`, "revoke, revocation"},
	{`life`, "lifetime"},
	{`certificate authorit(y|ies)|public authorit(y|ies)`, "CA"},
	{`anew`, "again"},
	{`sources? of (the )?(access )?credentials?`, "provider"},
	{`targets? (that )?mov(e|es|ed|ing)`, "the endpoint changes"},
	{`processor time`, "CPU time"},
	// No noun that the reader can see.
	{`whoever|whomever`, "users who …"},
	{`nobody|somebody`, "no user, another client: name who"},
	{`as whom|by whom|on whose behalf`, "name the identity or the ServiceAccount"},
	{`those (that|who|which)`, "repeat the noun"},
	{`the own`, "its"},
	// Metaphors of mechanisms.
	{`(is|are|was|be|been) told`, "receives"},
	{`tells`, "reports, shows"},
	{`learns|hears? of`, "receives, is notified"},
	{`gets? (in|into)|(the|a) way in|ways in`, "authenticates to, access"},
	{`says whether`, "reports whether"},
	{`goes on|go on|going on|went on`, "continues"},
	{`knows? of`, "has, supports"},
	{`stands`, "is stored, is listed, is shown"},
	{`leads? (to|into|through|nowhere|elsewhere)`, "connects to, resolves to, links to"},
	{`(is|are) (looked at|seen to)`, "is reconciled, checked, probed"},
	{`(is|are) over|comes? to its end|lasts? to (its|their) end|until (it|they|that|those|theirs|its) ends?`, "expires"},
	{`asks? for|asked for|asking for`, "requests, requested"},
	{`for want of`, "for lack of"},
	// Conditions.
	{`but for`, "except"},
	{`where it can`, "if the cluster supports it"},
}

// openings are beginnings of sentences without a subject. They are allowed in questions and
// headings.
var openings = []struct{ pattern, instead string }{
	{`Who`, "begin with the subject: users who …"},
	{`What (is|was|has|had|a|an|the|it|they|comes|others)`, "begin with the subject"},
	{`Where (a|an|the|it|no|there|they|this|both|one)`, "begin a condition with if"},
	{`That (is|was|has) (what|how|where|why|told|said)`, "repeat the noun"},
}

var (
	code          = regexp.MustCompile("`[^`]*`")
	wordRules     = compile(words, `(?i)\b(?:%s)\b`)
	openingRules  = compile(openings, `^(?:\*\*)?(?:%s)\b`)
	questionMarks = regexp.MustCompile(`\?[*)"]*$`)
)

type rule struct {
	pattern *regexp.Regexp
	instead string
}

func compile(table []struct{ pattern, instead string }, format string) []rule {
	rules := make([]rule, len(table))
	for i, row := range table {
		rules[i] = rule{regexp.MustCompile(fmt.Sprintf(format, row.pattern)), row.instead}
	}
	return rules
}

// finding is what is wrong with a sentence. A warning fails no check.
type finding struct {
	message string
	warning bool
}

// foreign are texts of other programs that the docs repeat.
var foreign = []string{"Path to a cert file for the certificate authority"} // a flag of kubectl

func check(s sentence) []finding {
	if slices.Contains(foreign, s.text) {
		return nil
	}
	text := code.ReplaceAllString(s.text, "CODE")
	rules := wordRules
	if !s.heading && !questionMarks.MatchString(text) {
		rules = append(rules[:len(rules):len(rules)], openingRules...)
	}
	var findings []finding
	for _, r := range rules {
		if found := r.pattern.FindString(text); found != "" {
			findings = append(findings, finding{message: fmt.Sprintf("%q: write instead: %s: %s", found, r.instead, s.text)})
		}
	}
	if n := len(strings.Fields(text)); n > maxWords && !s.printed {
		findings = append(findings, finding{message: fmt.Sprintf("warning: %d words: split the sentence: %s", n, s.text), warning: true})
	}
	return findings
}
