package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What is shipped for Azure is looked at as far as that goes without Azure and without the
// tools' own schemas, which have to be fetched: brackets and quotes are paired, what is used
// is declared and what is declared is used, both samples make the same kinds of things, and
// the role names actions that can be. It says nothing of whether Azure takes them.
func TestAzureSamples(t *testing.T) {
	read := func(name string) string {
		b, err := os.ReadFile("deploy/azure/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	tf, bicep := read("main.tf"), read("main.bicep")
	for name, bad := range map[string][]string{"main.tf": terraform(tf), "main.bicep": bicepOf(bicep), "role.json": azureRole(read("role.json"))} {
		for _, b := range bad {
			t.Errorf("deploy/azure/%s: %s", name, b)
		}
	}
	if a, b := kinds(tf, `(?m)^resource "(azurerm_\w+)"`), kinds(bicep, `(?m)^resource \w+ '([\w./]+)@`); !maps.Equal(a, b) {
		t.Errorf("the samples do not make the same:\n%v\n%v", a, b)
	}
	// It can fail.
	for from, to := range map[string]string{"var.resource_group": "var.resourcegroup", "azurerm_subnet.servers.id": "azurerm_subnet.server.id", "local.role.Name": "local.rule.Name", "permissions {": "permissions", `"site"`: `"site`} {
		if len(terraform(strings.Replace(tf, from, to, 1))) == 0 {
			t.Errorf("main.tf with %s passed", to)
		}
	}
	for from, to := range map[string]string{"guard.id": "gard.id", "subnetPrefix\n": "subnetPrefx\n", "guid(": "gid(", "'site'": "'site", "parent: blobs": "parent: blob"} {
		if len(bicepOf(strings.Replace(bicep, from, to, 1))) == 0 {
			t.Errorf("main.bicep with %s passed", to)
		}
	}
	if len(azureRole(`{"Actions": ["Microsoft.Compute/disks/reed"]}`)) == 0 {
		t.Error("a role with no such action passed")
	}
}

// kinds counts what a sample makes, in Terraform's words for it.
func kinds(text, pattern string) map[string]int {
	same := map[string]string{
		"Microsoft.ManagedIdentity/userAssignedIdentities": "azurerm_user_assigned_identity", "Microsoft.Network/networkSecurityGroups": "azurerm_network_security_group",
		"Microsoft.Network/virtualNetworks": "azurerm_virtual_network", "Microsoft.Authorization/roleDefinitions": "azurerm_role_definition",
		"Microsoft.Authorization/roleAssignments": "azurerm_role_assignment", "Microsoft.Storage/storageAccounts": "azurerm_storage_account",
		"Microsoft.Storage/storageAccounts/blobServices/containers": "azurerm_storage_container",
	}
	all := map[string]int{}
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		k := m[1]
		if s, ok := same[k]; ok {
			k = s
		}
		all[k]++
	}
	for _, part := range []string{"azurerm_subnet", "azurerm_subnet_network_security_group_association", "Microsoft.Storage/storageAccounts/blobServices"} {
		delete(all, part) // a part of another, for the other tool
	}
	return all
}

// bare takes comments and texts out, but for what is put into texts by ${…}, and looks at
// brackets and quotes.
func bare(text, comment string, quote byte) (out string, bad []string) {
	var b strings.Builder
	var open []byte
	number := 0
	for line := range strings.Lines(text) {
		number++
		in := false
		for i := 0; i < len(line); i++ {
			c := line[i]
			switch {
			case in && c == quote:
				in = false
			case in && strings.HasPrefix(line[i:], "${"):
				end := strings.IndexByte(line[i:], '}')
				if end < 0 {
					bad = append(bad, fmt.Sprintf("line %d: ${ without its end", number))
					end = len(line) - i - 1
				}
				b.WriteString(" " + line[i+2:i+end] + " ")
				i += end
			case in:
			case c == quote:
				in = true
				b.WriteByte('@')
			case strings.HasPrefix(line[i:], comment):
				i = len(line)
				b.WriteByte('\n')
			case strings.IndexByte("([{", c) >= 0:
				open = append(open, c)
				b.WriteByte(c)
			case strings.IndexByte(")]}", c) >= 0:
				if n := len(open); n == 0 || open[n-1] != map[byte]byte{')': '(', ']': '[', '}': '{'}[c] {
					bad = append(bad, fmt.Sprintf("line %d: %c closes nothing", number, c))
				} else {
					open = open[:n-1]
				}
				b.WriteByte(c)
			default:
				b.WriteByte(c)
			}
		}
		if in {
			bad = append(bad, fmt.Sprintf("line %d: a text has no end", number))
		}
	}
	if len(open) > 0 {
		bad = append(bad, fmt.Sprintf("%d brackets are never closed", len(open)))
	}
	return b.String(), bad
}

func terraform(text string) []string {
	code, bad := bare(text, "#", '"')
	declared := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(variable|resource|data) "(\w+)"(?: "(\w+)")? \{`).FindAllStringSubmatch(text, -1) {
		declared[map[string]string{"variable": "var.", "data": "data.", "resource": ""}[m[1]]+strings.TrimSuffix(m[2]+"."+m[3], ".")] = false
	}
	if _, rest, ok := strings.Cut(text, "\nlocals {"); ok {
		body, _, _ := strings.Cut(rest, "\n}")
		for _, m := range regexp.MustCompile(`(?m)^  (\w+) +=`).FindAllStringSubmatch(body, -1) {
			declared["local."+m[1]] = false
		}
	}
	for _, m := range regexp.MustCompile(`\b(?:(?:var|local)\.\w+|(?:data\.)?azurerm_\w+\.\w+)`).FindAllString(code, -1) {
		if _, ok := declared[m]; !ok {
			bad = append(bad, m+" is declared nowhere")
		}
		declared[m] = true
	}
	for name, used := range declared {
		if !used && (strings.HasPrefix(name, "var.") || strings.HasPrefix(name, "local.")) {
			bad = append(bad, name+" is never used")
		}
	}
	return bad
}

// bicepWords are words and functions of Bicep that the sample uses.
var bicepWords = []string{
	"targetScope", "param", "var", "resource", "output", "string", "if", "true", "false", "description", "resourceGroup", "guid", "uniqueString",
	"subscriptionResourceId", "empty", "loadJsonContent",
}

func bicepOf(text string) []string {
	code, bad := bare(text, "//", '\'')
	declared := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(param|var|resource|output) (\w+)`).FindAllStringSubmatch(text, -1) {
		declared[m[2]] = true
	}
	// An identifier that is neither a key (name:) nor a member (.name).
	for _, m := range regexp.MustCompile(`(\.?)\b([A-Za-z]\w*)(:?)`).FindAllStringSubmatch(code, -1) {
		if m[1] == "" && m[3] == "" && !declared[m[2]] && !slices.Contains(bicepWords, m[2]) {
			bad = append(bad, m[2]+" is declared nowhere")
		}
	}
	for name := range declared {
		if !strings.Contains(text, "output "+name) && len(regexp.MustCompile(`\b`+name+`\b`).FindAllString(code, -1)) < 2 && !strings.HasPrefix(name, "may") {
			bad = append(bad, name+" is never used")
		}
	}
	return bad
}

func azureRole(text string) (bad []string) {
	var r struct{ Actions []string }
	if err := json.Unmarshal([]byte(text), &r); err != nil || len(r.Actions) == 0 {
		return []string{fmt.Sprintf("no actions: %v", err)}
	}
	action := regexp.MustCompile(`^Microsoft\.[A-Z]\w+(/[a-zA-Z]\w*)+/(read|write|delete|action)$`)
	for _, a := range r.Actions {
		if !action.MatchString(a) {
			bad = append(bad, a+" is no action")
		}
	}
	return bad
}
