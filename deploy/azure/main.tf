# The same as main.bicep, for Terraform. See docs/ops/azure.md. It was never applied by its
# authors.
terraform {
  required_version = ">= 1.5"
  required_providers {
    azurerm = { source = "hashicorp/azurerm", version = "~> 4.0" }
  }
}

provider "azurerm" {
  features {}
}

variable "resource_group" {
  type        = string
  description = "An existing resource group"
}

variable "storage_name" {
  type        = string
  default     = ""
  description = "Name of the storage account for the vault; empty: none is made"
}

locals {
  role = jsondecode(file("${path.module}/role.json"))
}

data "azurerm_resource_group" "recovery" {
  name = var.resource_group
}

resource "azurerm_user_assigned_identity" "control" {
  name                = "leeward-control"
  location            = data.azurerm_resource_group.recovery.location
  resource_group_name = data.azurerm_resource_group.recovery.name
}

resource "azurerm_network_security_group" "servers" {
  name                = "leeward-servers"
  location            = data.azurerm_resource_group.recovery.location
  resource_group_name = data.azurerm_resource_group.recovery.name
}

resource "azurerm_virtual_network" "site" {
  name                = "site"
  address_space       = ["10.77.0.0/16"]
  location            = data.azurerm_resource_group.recovery.location
  resource_group_name = data.azurerm_resource_group.recovery.name
}

resource "azurerm_subnet" "servers" {
  name                 = "servers"
  resource_group_name  = data.azurerm_resource_group.recovery.name
  virtual_network_name = azurerm_virtual_network.site.name
  address_prefixes     = ["10.77.0.0/24"]
}

resource "azurerm_subnet_network_security_group_association" "servers" {
  subnet_id                 = azurerm_subnet.servers.id
  network_security_group_id = azurerm_network_security_group.servers.id
}

resource "azurerm_role_definition" "failover" {
  name              = local.role.Name
  description       = local.role.Description
  scope             = data.azurerm_resource_group.recovery.id
  assignable_scopes = [data.azurerm_resource_group.recovery.id]
  permissions {
    actions = local.role.Actions
  }
}

resource "azurerm_role_assignment" "failover" {
  scope              = data.azurerm_resource_group.recovery.id
  role_definition_id = azurerm_role_definition.failover.role_definition_resource_id
  principal_id       = azurerm_user_assigned_identity.control.principal_id
}

resource "azurerm_storage_account" "vault" {
  count                           = var.storage_name == "" ? 0 : 1
  name                            = var.storage_name
  location                        = data.azurerm_resource_group.recovery.location
  resource_group_name             = data.azurerm_resource_group.recovery.name
  account_tier                    = "Standard"
  account_replication_type        = "ZRS"
  min_tls_version                 = "TLS1_2"
  allow_nested_items_to_be_public = false
  shared_access_key_enabled       = false
}

resource "azurerm_storage_container" "vault" {
  count              = var.storage_name == "" ? 0 : 1
  name               = "vault"
  storage_account_id = azurerm_storage_account.vault[0].id
}

resource "azurerm_role_assignment" "vault" {
  count                = var.storage_name == "" ? 0 : 1
  scope                = azurerm_storage_container.vault[0].id
  role_definition_name = "Storage Blob Data Contributor"
  principal_id         = azurerm_user_assigned_identity.control.principal_id
}

output "identity_client_id" {
  value = azurerm_user_assigned_identity.control.client_id
}

output "subnet" {
  value = "${azurerm_virtual_network.site.name}/${azurerm_subnet.servers.name}"
}
