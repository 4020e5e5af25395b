package domain_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// small are the tables that no tenant fills, and steps that read no table.
var small = regexp.MustCompile(`^SCAN (sites|regions|zones|CONSTANT ROW|\(subquery-\d+\)|counted)\b`)

// page is a statement that reads one page of a list.
var page = regexp.MustCompile(`ORDER BY .* LIMIT \d{2,}$`)

// TestNothingScans explains every statement that every reading method runs: none
// goes through a whole table, whoever's the rows are, and a page is not sorted.
func TestNothingScans(t *testing.T) {
	if domaintest.Postgres() != "" {
		t.Skip("the plans are SQLite's")
	}
	f := build(t)
	for name, tr := range everyTrial {
		t.Run(name, func(t *testing.T) {
			if strings.HasSuffix(string(tr.needs), ":write") {
				t.Skip("writes")
			}
			var statements []string
			s := domain.Traced(f.Provider, func(sql string) { statements = append(statements, sql) })
			if _, err := tr.call(t.Context(), s, f); err != nil && tr.rows != nil {
				t.Fatal(err)
			}
			if tr.rows != nil && len(statements) == 0 {
				t.Fatal("no statement was seen")
			}
			for _, sql := range statements {
				if !strings.HasPrefix(sql, "SELECT") {
					continue
				}
				var steps []struct{ Detail string }
				if err := f.Store.DB().Raw("EXPLAIN QUERY PLAN " + sql).Scan(&steps).Error; err != nil {
					t.Fatalf("explain %s: %v", sql, err)
				}
				for _, step := range steps {
					if strings.HasPrefix(step.Detail, "SCAN") && !small.MatchString(step.Detail) {
						t.Errorf("%s\n\tof %s", step.Detail, sql)
					}
					if strings.Contains(step.Detail, "TEMP B-TREE FOR ORDER BY") && page.MatchString(sql) {
						t.Errorf("%s\n\tof %s", step.Detail, sql)
					}
				}
			}
		})
	}
}
