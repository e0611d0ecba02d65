package main

import (
	"regexp"
	"strings"
)

type sentence struct {
	page    string
	line    int // of the paragraph, list item or table row
	text    string
	heading bool
	printed bool // by a program, such as the description of a flag
}

var (
	fence   = regexp.MustCompile("^ *```")
	comment = regexp.MustCompile(`^ *<!--(.*)`)
	// written matches the comment above generated text. The text ends with the next comment, or with
	// the page.
	written   = regexp.MustCompile(`(?i)^ *(generated:|written by|table .*, written by)`)
	heading   = regexp.MustCompile(`^#+ (.*)`)
	item      = regexp.MustCompile(`^ *(?:[-*]|\d+\.) +(.*)`)
	delimiter = regexp.MustCompile(`^[|\-: ]+$`)
	link      = regexp.MustCompile(`!?\[([^\]]*)\]\([^)]*\)`)
	tag       = regexp.MustCompile(`</?[a-z]+[^>]*>`)
	end       = regexp.MustCompile("([.!?][)*\"”]*) +([A-Z`\"(*“])")
	// short matches a period that ends no sentence.
	short = regexp.MustCompile(`\b(e\.g|i\.e|etc|vs)\.$`)
	// term matches the name and type of a flag, or a command, in front of its description.
	term = regexp.MustCompile(`^\s+\S.*?\s{2,}`)
)

// sentences returns the sentences and headings of a Markdown page.
func sentences(page, content string) []sentence {
	var found []sentence
	var paragraph strings.Builder
	start := 0
	inBlock, inGenerated := false, false
	flush := func() {
		for _, text := range split(paragraph.String()) {
			if text != "" {
				found = append(found, sentence{page: page, line: start, text: text, printed: inGenerated})
			}
		}
		paragraph.Reset()
	}
	add := func(line int, text string) {
		if paragraph.Len() == 0 {
			start = line
		}
		paragraph.WriteString(text + " ")
	}
	for i, line := range strings.Split(content, "\n") {
		number := i + 1
		switch m := comment.FindStringSubmatch(line); {
		case fence.MatchString(line):
			flush()
			inBlock = !inBlock
		case inBlock && inGenerated:
			// An indented line is one entry of a list. Other lines are parts of paragraphs.
			isEntry, text := strings.HasPrefix(line, " "), strings.TrimSpace(term.ReplaceAllString(line, ""))
			if isEntry || text == "" {
				flush()
			}
			if text != "" {
				add(number, text)
			}
			if isEntry {
				flush()
			}
		case inBlock:
		case m != nil:
			flush()
			inGenerated = written.MatchString(m[1])
		case strings.TrimSpace(line) == "", delimiter.MatchString(line):
			flush()
		case heading.MatchString(line):
			flush()
			found = append(found, sentence{page: page, line: number, text: heading.FindStringSubmatch(line)[1], heading: true, printed: inGenerated})
		case strings.HasPrefix(line, "|"):
			flush()
			first := len(found)
			for cell := range strings.SplitSeq(line, " | ") {
				add(number, strings.Trim(cell, "| "))
				flush()
			}
			if cells := found[first:]; len(cells) > 1 && figure.MatchString(strings.Fields(cells[1].text)[0]) {
				cells[0].heading = true // the name of a measurement
			}
		case item.MatchString(line):
			flush()
			add(number, item.FindStringSubmatch(line)[1])
		default:
			add(number, strings.TrimSpace(line))
		}
	}
	flush()
	return found
}

// split returns the sentences of a paragraph, without the marks of links.
func split(paragraph string) []string {
	paragraph = tag.ReplaceAllString(link.ReplaceAllString(paragraph, "$1"), " ")
	paragraph = strings.Join(strings.Fields(paragraph), " ")
	var all []string
	begin := 0
	for from := 0; ; {
		m := end.FindStringSubmatchIndex(paragraph[from:])
		if m == nil {
			return append(all, paragraph[begin:])
		}
		stop, next := from+m[3], from+m[4]
		if !short.MatchString(paragraph[begin:stop]) {
			all = append(all, paragraph[begin:stop])
			begin = next
		}
		from = next
	}
}
