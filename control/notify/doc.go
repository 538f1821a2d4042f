// Package notify sends notifications to people: as JSON to webhooks and as mail over
// SMTP. It owns their text, their sending with a bound in time, and the decision what
// is worth one (Changes). It never decides what is healthy, and keeps nothing.
package notify
